// Plugins: what serves each stage, what was refused, and one of them.

import { useGet } from "../../api/poll.ts";
import type { Page, PluginStatus } from "../../api/types.ts";
import { plural, shortDigest } from "../../lib/format.ts";
import { href, route } from "../../lib/router.ts";
import { Empty, ProblemNote, Skeleton, Status, Time } from "../../ui/basics.tsx";
import { RowLink, Split } from "../../ui/list.tsx";
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
            {plugins.data && <Table plugins={sorted} />}
          </>
        }
        detail={opened ? <Plugin key={nameOf(opened)} plugin={opened} /> : null}
      />
    </>
  );
}

function Table({ plugins }: { plugins: PluginStatus[] }) {
  if (plugins.length === 0) {
    return (
      <Empty title="No plugins">
        Copy a file into the plugins folder. <code>postrider plugin new</code> creates a project.
      </Empty>
    );
  }
  return (
    <table class="rows">
      <thead>
        <tr>
          <th>Stage</th>
          <th>State</th>
          <th>Version</th>
          <th class="hide-narrow">Digest</th>
          <th class="hide-narrow hide-split">File</th>
          <th class="right">Loaded</th>
        </tr>
      </thead>
      <tbody>
        {plugins.map((one) => (
          <tr key={`${one.stage} ${one.file}`}>
            <td class="truncate">
              <div class="two-lines">
                <div>
                  <RowLink
                    to={href("plugins", nameOf(one))}
                    current={route.value.id === nameOf(one)}
                  >
                    {nameOf(one)}
                  </RowLink>
                </div>
                {(one.last_error ?? one.rolled_back) && (
                  <div class="bad-text small" title={one.last_error ?? one.rolled_back ?? ""}>
                    {one.last_error ?? one.rolled_back}
                  </div>
                )}
              </div>
            </td>
            <td class="shrink">
              <Status value={one.state} />
            </td>
            <td class="num shrink">{one.version ?? "–"}</td>
            <td class="id shrink hide-narrow">{shortDigest(one.digest)}</td>
            <td class="hide-narrow hide-split ellipsis customer" title={one.file ?? undefined}>
              {one.file ?? <span class="muted">in the program</span>}
            </td>
            <td class="right shrink">
              <Time at={one.loaded_at_ms} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
