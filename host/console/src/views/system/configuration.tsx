// The configuration of the host that answers: a table for each section, confidential values masked.

import { useSignal } from "@preact/signals";
import { useGet } from "../../api/poll.ts";
import type { Configuration, Setting } from "../../api/types.ts";
import { Empty, ProblemNote, Section, Skeleton } from "../../ui/basics.tsx";
import { TableCard } from "../../ui/table.tsx";

const READ_MS = 60_000;

export function ConfigurationTab() {
  const config = useGet<Configuration>("config", READ_MS);
  const changedOnly = useSignal(false);
  const all = config.data?.settings;
  if (!all) return config.problem ? <ProblemNote problem={config.problem} /> : <Skeleton lines={10} />;
  const shown = all.filter((one) => one.changed || !changedOnly.value);
  return (
    <Section
      title="Configuration"
      side={
        <label>
          <input
            type="checkbox"
            checked={changedOnly.value}
            onChange={(event) => (changedOnly.value = event.currentTarget.checked)}
          />{" "}
          Only what differs from its default
        </label>
      }
    >
      <ProblemNote problem={config.problem} />
      {shown.length === 0 && <Empty title="Nothing differs">Every setting has its default.</Empty>}
      {bySection(shown).map(([name, settings]) => (
        <details class="card" key={name} open>
          <summary class="padded">
            <strong>{name}</strong>{" "}
            <span class="muted">{settings.filter((one) => one.changed).length} changed</span>
          </summary>
          <TableCard
            rows={settings}
            keyOf={(one) => one.key}
            columns={[
              { title: "Setting", cellClass: "id", cell: (one) => one.key },
              { title: "Value", cellClass: "id wrap", cell: (one) => <Value of={one} /> },
              {
                title: "Differs",
                cellClass: "nowrap",
                cell: (one) => (one.changed ? "changed" : <span class="muted">default</span>),
              },
            ]}
          />
        </details>
      ))}
    </Section>
  );
}

function Value({ of }: { of: Setting }) {
  const text = typeof of.value === "string" ? of.value : JSON.stringify(of.value);
  if (of.value === null) return <span class="muted">none</span>;
  return (
    <>
      {text}
      {of.masked && <span class="muted"> masked</span>}
    </>
  );
}

/** The settings by the first part of their key, in the order of the sections. */
function bySection(settings: Setting[]): [string, Setting[]][] {
  const sections = new Map<string, Setting[]>();
  for (const one of settings) {
    const name = one.key.split(".")[0] ?? one.key;
    sections.set(name, [...(sections.get(name) ?? []), one]);
  }
  return [...sections];
}
