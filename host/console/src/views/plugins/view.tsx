// Plugins: what serves each stage, what was refused, and one of them.

import { useGet } from "../../api/poll.ts";
import type { Page, PluginStatus } from "../../api/types.ts";
import { plural, shortDigest } from "../../lib/format.ts";
import { href, route } from "../../lib/router.ts";
import { Empty, ProblemNote, Skeleton, Status, Time } from "../../ui/basics.tsx";
import { RowLink, Split } from "../../ui/list.tsx";
import { Table } from "../../ui/table.tsx";
import { TopBar } from "../../ui/topbar.tsx";
import { Plugin } from "./plugin.tsx";

const LIST_MS = 3_000;

/** A stage's name, or the file that serves none. */
export function nameOf(plugin: PluginStatus): string {
  return plugin.stage ?? plugin.file ?? "?";
}

export function isTroubled(plugin: PluginStatus): boolean {
  return Boolean(plugin.last_error || plugin.rolled_back || plugin.waiting_for);
}

export function Plugins() {
  const plugins = useGet<Page<PluginStatus>>("plugins", LIST_MS);
  const { id } = route.value;
  const all = plugins.data?.items ?? [];
  const sorted = [...all].sort(
    (a, b) =>
      Number(isTroubled(b)) - Number(isTroubled(a)) || nameOf(a).localeCompare(nameOf(b)),
  );
  const opened = all.find((one) => nameOf(one) === id) ?? all.find((one) => one.file === id);
  const troubled = all.filter(isTroubled).length;
  return (
    <>
      <TopBar title="Plugins">
        <span class="muted">
          {plugins.data && plural(all.length, "plugin")}
          {troubled > 0 && `, ${plural(troubled, "problem")}`}
        </span>
      </TopBar>
      <Split
        list={
          <>
            <ProblemNote problem={plugins.problem} />
            {!plugins.data && !plugins.problem && <Skeleton lines={6} />}
            {plugins.data && <List plugins={sorted} />}
          </>
        }
        detail={opened ? <Plugin key={nameOf(opened)} plugin={opened} /> : null}
      />
    </>
  );
}

function List({ plugins }: { plugins: PluginStatus[] }) {
  if (plugins.length === 0) {
    return (
      <Empty title="No plugins">
        Copy a file into the plugins folder. <code>postrider plugin new</code> creates a project.
      </Empty>
    );
  }
  return (
    <Table
      class="rows"
      rows={plugins}
      keyOf={(one) => `${one.stage} ${one.file}`}
      columns={[
        { title: "Stage", class: "truncate", cell: (one) => <Name plugin={one} /> },
        { title: "State", class: "shrink", cell: (one) => <Status value={one.state} /> },
        { title: "Version", class: "shrink", cellClass: "num", cell: (one) => one.version ?? "–" },
        {
          title: "Digest",
          class: "shrink hide-narrow",
          cellClass: "id",
          cell: (one) => shortDigest(one.digest),
        },
        {
          title: "File",
          class: "hide-narrow hide-split",
          cellClass: "ellipsis customer",
          hint: (one) => one.file,
          cell: (one) => one.file ?? <span class="muted">in the program</span>,
        },
        { title: "Loaded", class: "right shrink", cell: (one) => <Time at={one.loaded_at_ms} /> },
      ]}
    />
  );
}

function Name({ plugin }: { plugin: PluginStatus }) {
  const name = nameOf(plugin);
  const problem = plugin.last_error ?? plugin.rolled_back;
  return (
    <div class="two-lines">
      <div>
        <RowLink to={href("plugins", name)} current={route.value.id === name}>
          {name}
        </RowLink>
      </div>
      {problem && (
        <div class="bad-text small" title={problem}>
          {problem}
        </div>
      )}
    </div>
  );
}
