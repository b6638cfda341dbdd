// The difference of two texts, line by line.

import type { ComponentChildren } from "preact";
import { diffLines, withContext } from "../lib/diff.ts";
import { plural } from "../lib/format.ts";

const MARKS = { same: "  ", removed: "- ", added: "+ " };

/** A region that scrolls, for differences; a label for those who do not see it. */
export function DiffBox({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <div class="diff" role="region" aria-label={label} tabIndex={0}>
      {children}
    </div>
  );
}

/** The lines that differ, with some around them. */
export function DiffLines(props: { before: string; after: string; context?: number }) {
  return (
    <>
      {withContext(diffLines(props.before, props.after), props.context).map((one, place) =>
        "gap" in one ? (
          <div class="gap" key={place}>
            … {plural(one.gap, "line")}
          </div>
        ) : (
          <div class={one.kind} key={place}>
            {MARKS[one.kind]}
            {one.text}
          </div>
        ),
      )}
    </>
  );
}

export function Diff({ before, after }: { before: string; after: string }) {
  return (
    <DiffBox label="Difference">
      <DiffLines before={before} after={after} />
    </DiffBox>
  );
}
