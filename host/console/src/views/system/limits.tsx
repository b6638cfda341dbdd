// How much of each limit is used, and by whom.

import { useGet } from "../../api/poll.ts";
import type { Limits } from "../../api/types.ts";
import { bytes, count } from "../../lib/format.ts";
import { ProblemNote, Section, Skeleton } from "../../ui/basics.tsx";

export function LimitsTab() {
  const limits = useGet<Limits>("limits", 5_000);
  const data = limits.data;
  if (!data) return limits.problem ? <ProblemNote problem={limits.problem} /> : <Skeleton />;
  const sorted = [...data.limits].sort((a, b) => b.used / b.max - a.used / a.max);
  const amount = (value: number, unit: string) => (unit === "bytes" ? bytes(value) : count(value));
  const clients = [...data.principals, ...(data.addresses ?? [])];
  return (
    <div class="sections">
      <ProblemNote problem={limits.problem} />
      <Section title="Limits" side="of this host, the fullest first">
        <div class="card table-wrap" tabIndex={0}>
          <table>
            <thead>
              <tr>
                <th>Limit</th>
                <th class="right">Used</th>
                <th class="right">Of</th>
                <th class="hide-narrow">Share</th>
                <th class="hide-narrow">Setting</th>
              </tr>
            </thead>
            <tbody>
              {sorted.map((one) => {
                const share = one.max === 0 ? 0 : one.used / one.max;
                return (
                  <tr key={`${one.limit} ${one.stage} ${one.unit}`}>
                    <td>
                      {one.limit}
                      {one.stage && <span class="muted"> of {one.stage}</span>}
                    </td>
                    <td class="num right nowrap">{amount(one.used, one.unit)}</td>
                    <td class="num right nowrap">{amount(one.max, one.unit)}</td>
                    <td class="hide-narrow nowrap">
                      <span class="gauge progress">
                        <div style={{ width: `${Math.min(100, share * 100)}%` }} />
                      </span>{" "}
                      <span class={`num ${share > 0.8 ? "bad-text" : "muted"}`}>
                        {Math.round(share * 100)} %
                      </span>
                    </td>
                    <td class="id hide-narrow">{one.setting ?? "fixed"}</td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      </Section>
      <Section title="Clients" side="of the last minute">
        <div class="card table-wrap" tabIndex={0}>
          <table>
            <thead>
              <tr>
                <th>Client</th>
                <th class="right">Requests</th>
                <th class="right">Open</th>
                <th class="right">Bytes</th>
                <th class="right">Refused</th>
              </tr>
            </thead>
            <tbody>
              {clients.map((one) => (
                <tr key={one.client}>
                  <td class="id">{one.client}</td>
                  <td class="num right">{count(one.requests_last_minute)}</td>
                  <td class="num right">{count(one.requests_in_progress)}</td>
                  <td class="num right nowrap">{bytes(one.bytes_in_progress)}</td>
                  <td class={`num right ${one.refused > 0 ? "bad-text" : ""}`}>{count(one.refused)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </Section>
    </div>
  );
}
