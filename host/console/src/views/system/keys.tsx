// Keys of clients, and keys with which hosts sign messages. Secrets are never shown.

import { now, useGet } from "../../api/poll.ts";
import type { ApiKey, MessageKey, Page } from "../../api/types.ts";
import { Empty, Section, Status, Time } from "../../ui/basics.tsx";
import { TableCard } from "../../ui/table.tsx";

export function Keys() {
  const keys = useGet<Page<ApiKey>>("keys", 15_000);
  const message = useGet<Page<MessageKey>>("broker/keys", 60_000);
  return (
    <div class="sections">
      <Section title="API keys" side={<span>create and rotate them with <code>postrider keys</code></span>}>
        <TableCard
          reading={keys}
          rows={keys.data?.items}
          keyOf={(key) => key.id}
          empty={
            <Empty title="No API keys">
              <code>postrider keys create NAME --role ROLE</code> creates one.
            </Empty>
          }
          columns={[
            { title: "Principal", hint: (key) => key.description, cell: (key) => key.principal },
            { title: "Key", cellClass: "id", cell: (key) => key.id },
            { title: "Roles", cell: (key) => key.roles.join(", ") },
            { title: "State", cellClass: "nowrap", cell: (key) => <KeyState value={key} /> },
            {
              title: "Created",
              class: "right hide-narrow",
              cell: (key) => <Time at={key.created_at_ms} />,
            },
            {
              title: "Last used",
              class: "right hide-narrow",
              cell: (key) => <Time at={key.last_used_at_ms} none="never" />,
            },
          ]}
        />
      </Section>
      <Section title="Message keys" side="hosts sign what they send to RabbitMQ">
        <TableCard
          reading={message}
          rows={message.data?.items}
          keyOf={(key) => key.id}
          empty={<Empty title="No message keys">The broker is embedded, and nothing is signed.</Empty>}
          columns={[
            { title: "Key", cellClass: "id", cell: (key) => key.id },
            { title: "Use", cell: (key) => (key.signs ? "signs" : "accepted") },
            { title: "Added", class: "right", cell: (key) => <Time at={key.created_at_ms} /> },
          ]}
        />
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
