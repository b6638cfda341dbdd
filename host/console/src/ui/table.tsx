// Tables: what each column is called and shows, in one place for its heading and its cells.

import type { ComponentChildren } from "preact";
import type { Reading } from "../api/poll.ts";
import { ProblemNote, Skeleton } from "./basics.tsx";

/** A column of a table whose rows are of the type `T`. */
export interface Column<T> {
  title: string;
  /** Classes of the heading and the cells, such as `right` and `hide-narrow`. */
  class?: string;
  /** Classes of the cells alone, such as `id`. */
  cellClass?: string;
  /** The heading is for screen readers only. */
  hidden?: boolean;
  /** The whole text of a cell that may be cut off. */
  hint?: (row: T) => string | null | undefined;
  cell: (row: T) => ComponentChildren;
}

interface Rows<T> {
  columns: (Column<T> | null)[];
  keyOf: (row: T) => string | number;
  /** The table's classes; `rows` for a list whose rows are links. */
  class?: string;
}

/** A table. Columns that are null are left out. */
export function Table<T>(props: Rows<T> & { rows: T[] }) {
  const columns = props.columns.filter((one) => one !== null);
  return (
    <table class={props.class}>
      <thead>
        <tr>
          {columns.map((one) => (
            <th class={one.class} key={one.title}>
              {one.hidden ? <span class="visually-hidden">{one.title}</span> : one.title}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {props.rows.map((row) => (
          <tr key={props.keyOf(row)}>
            {columns.map((one) => (
              <td
                class={[one.class, one.cellClass].filter(Boolean).join(" ") || undefined}
                title={one.hint?.(row) ?? undefined}
                key={one.title}
              >
                {one.cell(row)}
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/**
 * A table on a card that scrolls sideways when it is too wide. Until its rows are read it shows lines in
 * their place, without rows `empty`, and above it why reading failed.
 */
export function TableCard<T>(
  props: Rows<T> & {
    /** How the rows are read; without it they are known. */
    reading?: Reading<unknown>;
    /** None: they are not read yet. */
    rows: T[] | null | undefined;
    empty?: ComponentChildren;
    /** Lines of the skeleton: about as many as rows are expected. */
    lines?: number;
  },
) {
  const { reading, rows, empty, lines = 3, ...table } = props;
  const problem = reading?.problem ?? null;
  return (
    <>
      <ProblemNote problem={problem} />
      {(rows || !problem) && (
        <div class="card table-wrap" tabIndex={0}>
          {!rows ? (
            <Skeleton lines={lines} />
          ) : rows.length === 0 && empty ? (
            empty
          ) : (
            <Table {...table} rows={rows} />
          )}
        </div>
      )}
    </>
  );
}
