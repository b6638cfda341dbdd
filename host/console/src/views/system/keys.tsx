// Keys of clients, and keys with which hosts sign messages. Secrets are never shown.

import { useGet } from "../../api/poll.ts";
import type { ApiKey, MessageKey, Page } from "../../api/types.ts";
import { Empty, ProblemNote, Section, Skeleton, Status, Time } from "../../ui/basics.tsx";
import { now } from "../../api/poll.ts";

export function Keys() {
  const keys = useGet<Page<ApiKey>>("keys", 15_000);
  const message = useGet<Page<MessageKey>>("broker/keys", 60_000);
  return (
    <div class="sections">
      <Section title="API keys" side={<span>create and rotate them with <code>postrider keys</code></span>}>
        <ProblemNote problem={keys.problem} />
        <div class="card table-wrap" tabIndex={0}>
          {!keys.data && !keys.problem && <Skeleton lines={3} />}
          {keys.data?.items.length === 0 && (
            <Empty title="No API keys">
              <code>postrider keys create NAME --role ROLE</code> creates one.
            </Empty>
          )}
          {keys.data && keys.data.items.length > 0 && (
            <table>
              <thead>
                <tr>
                  <th>Principal</th>
                  <th>Key</th>
                  <th>Roles</th>
                  <th>State</th>
                  <th class="right hide-narrow">Created</th>
                  <th class="right hide-narrow">Last used</th>
                </tr>
              </thead>
              <tbody>
                {keys.data.items.map((key) => (
                  <tr key={key.id}>
                    <td title={key.description}>{key.principal}</td>
                    <td class="id">{key.id}</td>
                    <td>{key.roles.join(", ")}</td>
                    <td class="nowrap">
                      <KeyState value={key} />
                    </td>
                    <td class="right hide-narrow">
                      <Time at={key.created_at_ms} />
                    </td>
                    <td class="right hide-narrow">
                      <Time at={key.last_used_at_ms} none="never" />
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </div>
      </Section>
      <Section title="Message keys" side="hosts sign what they send to RabbitMQ">
        <ProblemNote problem={message.problem} />
        {message.data?.items.length === 0 && (
          <p class="muted">None: the broker is embedded, and nothing is signed.</p>
        )}
        {message.data && message.data.items.length > 0 && (
          <div class="card table-wrap" tabIndex={0}>
            <table>
              <thead>
                <tr>
                  <th>Key</th>
                  <th>Use</th>
                  <th class="right">Added</th>
                </tr>
              </thead>
              <tbody>
                {message.data.items.map((key) => (
                  <tr key={key.id}>
                    <td class="id">{key.id}</td>
                    <td>{key.signs ? "signs" : "accepted"}</td>
                    <td class="right">
                      <Time at={key.created_at_ms} />
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </Section>
    </div>
  );
}

function KeyState({ value }: { value: ApiKey }) {
  const { revoked_at_ms: revoked, expires_at_ms: expires } = value;
  if (revoked != null) return <Status value="revoked" tone="calm" icon="dead" />;
  if (expires == null) return <Status value="valid" tone="good" icon="done" />;
  const ended = expires <= now.value;
  return (
    <>
      <Status value={ended ? "expired" : "valid"} tone={ended ? "warn" : "good"} icon={ended ? "waiting" : "done"} />
      {!ended && (
        <span class="muted">
          , ends <Time at={expires} />
        </span>
      )}
    </>
  );
}
