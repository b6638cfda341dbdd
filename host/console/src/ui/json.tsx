// Payloads as text, with every digit as it was sent.

import { pretty, tokens } from "../lib/json.ts";
import { Copy, Empty } from "./basics.tsx";

/** Beyond this many characters a payload is shown without colours. */
const COLOURED_MAX = 60_000;

/** A JSON text, or any other. */
export function JsonText({ text }: { text: string }) {
  const shown = pretty(text);
  const all = shown.length <= COLOURED_MAX ? tokens(shown) : null;
  return (
    <pre class="code" tabIndex={0}>
      {all
        ? all.map((token, place) =>
            token.kind === "space" || token.kind === "mark" ? (
              token.text
            ) : (
              <span class={`j-${token.kind}`} key={place}>
                {token.text}
              </span>
            ),
          )
        : shown}
    </pre>
  );
}

/** The data of an event or a body: JSON, a text, or the reason why there is none. */
export function Payload(props: { raw: string | null; unreadable?: string | null | undefined }) {
  const { raw, unreadable } = props;
  if (unreadable) return <Empty title="Not readable">{unreadable}</Empty>;
  if (raw === null || raw === "null") {
    return (
      <p class="muted small">
        Empty, or hidden: seeing payloads needs the role <code>payloads</code>.
      </p>
    );
  }
  return (
    <div class="payload">
      <Copy text={pretty(raw)} shown={`${raw.length.toLocaleString("en-US")} characters`} />
      <JsonText text={raw} />
    </div>
  );
}
