// The parts that every view uses.

import { useComputed, useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { now } from "../api/poll.ts";
import type { Problem } from "../api/types.ts";
import { exact, relative, shortDigest } from "../lib/format.ts";
import { Icon } from "./icons.tsx";

/** A time relative to now; the exact one when pointed at. Only its text changes every second. */
export function Time({ at, none = "–" }: { at: number | null | undefined; none?: string }) {
  const text = useComputed(() => (at == null ? none : relative(at, now.value)));
  if (at == null) return <span class="faint">{none}</span>;
  return (
    <time class="num nowrap" dateTime={new Date(at).toISOString()} title={exact(at)}>
      {text}
    </time>
  );
}

export type Tone = "good" | "bad" | "warn" | "busy" | "calm";

const STATUS: Record<string, [Tone, string]> = {
  done: ["good", "done"],
  open: ["busy", "open"],
  skipped: ["calm", "skipped"],
  dead: ["bad", "dead"],
  replaced: ["calm", "replaced"],
  running: ["good", "running"],
  paused: ["warn", "paused"],
  draining: ["warn", "draining"],
  serving: ["good", "done"],
  compiling: ["busy", "open"],
  removed: ["calm", "skipped"],
  failed: ["bad", "dead"],
  replayed: ["good", "replay"],
  discarded: ["calm", "skipped"],
  cancelling: ["warn", "open"],
  cancelled: ["calm", "dead"],
  declined: ["calm", "dead"],
  rejected: ["calm", "dead"],
  refunded: ["calm", "replaced"],
  received: ["busy", "open"],
  waiting: ["busy", "waiting"],
  stopped: ["warn", "paused"],
  refused: ["bad", "dead"],
  ok: ["good", "done"],
  failing: ["bad", "dead"],
  ready: ["good", "done"],
  dispatched: ["good", "done"],
};

/** A status as a word with a picture; its colour only repeats what the word says. */
export function Status({ value, tone, icon }: { value: string; tone?: Tone; icon?: string }) {
  const [known, picture] = STATUS[value] ?? ["busy", "dot"];
  return (
    <span class={`status ${tone ?? known}`}>
      <Icon name={icon ?? picture} size={12} />
      {value}
    </span>
  );
}

/** An error as the host describes it. */
export function ProblemNote({ problem, what }: { problem: Problem | null; what?: string }) {
  if (!problem) return null;
  return (
    <div class="note bad" role="alert">
      <Icon name="warning" />
      <div>
        <strong>
          {what ? `${what}: ` : ""}
          {problem.title}
        </strong>
        <div class="wrap">{problem.detail}</div>
        {(problem.errors ?? []).map((error) => (
          <div class="wrap" key={error.pointer}>
            <code>{error.pointer || "/"}</code> {error.detail}
          </div>
        ))}
      </div>
    </div>
  );
}

/** What a list shows when it has nothing, and what to do about it. */
export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children && <div class="muted">{children}</div>}
    </div>
  );
}

/** Lines in the place of what is being read. */
export function Skeleton({ lines = 6 }: { lines?: number }) {
  return (
    <div class="skeleton" role="status" aria-busy="true" aria-label="Loading">
      {Array.from({ length: lines }, (_, place) => (
        <div class="skeleton-line" key={place} />
      ))}
    </div>
  );
}

/** A text that can be copied with a click. */
export function Copy({ text, shown }: { text: string; shown?: string }) {
  const copied = useSignal(false);
  const copy = async (event: MouseEvent) => {
    event.preventDefault();
    event.stopPropagation();
    try {
      await navigator.clipboard.writeText(text);
      copied.value = true;
      setTimeout(() => (copied.value = false), 1_200);
    } catch {
      // Without a secure connection there is no clipboard; the text can be selected.
    }
  };
  return (
    <span class="copy">
      <code class="id" title={text}>
        {shown ?? text}
      </code>
      <button type="button" class="bare" onClick={copy} aria-label={`Copy ${shown ?? text}`}>
        <Icon name={copied.value ? "done" : "copy"} size={12} />
      </button>
    </span>
  );
}

export function Digest({ value }: { value: string | null | undefined }) {
  return value ? <Copy text={value} shown={shortDigest(value)} /> : <span class="faint">–</span>;
}

/** Names and values, aligned. Entries without a value are left out. */
export function Facts({ of }: { of: [string, ComponentChildren][] }) {
  const shown = of.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return (
    <dl class="facts">
      {shown.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** A part of a page with a heading. */
export function Section(props: {
  title: ComponentChildren;
  side?: ComponentChildren;
  children: ComponentChildren;
}) {
  return (
    <section class="section">
      <header>
        <h2>{props.title}</h2>
        {props.side && <div class="side">{props.side}</div>}
      </header>
      {props.children}
    </section>
  );
}

/** A button that says why it is off. */
export function Action(props: {
  label: string;
  icon?: string;
  kind?: "primary" | "danger";
  off?: string | undefined;
  onClick: () => void;
}) {
  return (
    <button
      type="button"
      class={props.kind ?? ""}
      aria-disabled={props.off ? "true" : undefined}
      title={props.off}
      onClick={() => !props.off && props.onClick()}
    >
      {props.icon && <Icon name={props.icon} size={13} />}
      {props.label}
    </button>
  );
}
