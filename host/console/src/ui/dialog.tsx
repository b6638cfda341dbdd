// Dialogs and short messages.

import { signal, useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { asProblem } from "../api/client.ts";
import type { Problem } from "../api/types.ts";
import { Icon } from "./icons.tsx";
import { ProblemNote } from "./basics.tsx";

/** A modal dialog; the browser keeps the focus in it and closes it with Escape. */
export function Dialog(props: {
  title: string;
  onClose: () => void;
  wide?: boolean;
  children: ComponentChildren;
}) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const before = document.activeElement;
    element.current?.showModal();
    return () => before instanceof HTMLElement && before.focus();
  }, []);
  return (
    <dialog
      ref={element}
      class={props.wide ? "wide" : ""}
      aria-labelledby="dialog-title"
      onClose={props.onClose}
      onClick={(event) => event.target === element.current && props.onClose()}
    >
      <div class="dialog">
        <header>
          <h2 id="dialog-title">{props.title}</h2>
          <button type="button" class="bare" onClick={props.onClose} aria-label="Close">
            <Icon name="close" />
          </button>
        </header>
        {props.children}
      </div>
    </dialog>
  );
}

interface Question {
  title: string;
  text?: ComponentChildren;
  action: string;
  kind?: "primary" | "danger";
  /** Asks for a reason; `required`: not without one. */
  reason?: "optional" | "required";
  run: (reason: string) => Promise<void>;
}

/** The question that is asked now. */
const question = signal<Question | null>(null);

/** Asks before something is done. Errors are shown in the dialog, which stays open then. */
export function ask(one: Question): void {
  question.value = one;
}

export function Questions() {
  const one = question.value;
  return one && <Ask key={one.title} one={one} />;
}

function Ask({ one }: { one: Question }) {
  const reason = useSignal("");
  const busy = useSignal(false);
  const problem = useSignal<Problem | null>(null);
  const close = () => (question.value = null);
  const submit = async (event: Event) => {
    event.preventDefault();
    if (busy.value) return;
    busy.value = true;
    problem.value = null;
    try {
      await one.run(reason.value.trim());
      close();
    } catch (error) {
      problem.value = asProblem(error);
    }
    busy.value = false;
  };
  return (
    <Dialog title={one.title} onClose={close}>
      <form onSubmit={submit}>
        {one.text && <div class="prose">{one.text}</div>}
        {one.reason && (
          <label class="field">
            Reason{one.reason === "optional" ? " (optional)" : ""}
            <input
              type="text"
              name="reason"
              autocomplete="off"
              required={one.reason === "required"}
              value={reason}
              onInput={(event) => (reason.value = event.currentTarget.value)}
            />
          </label>
        )}
        <ProblemNote problem={problem.value} />
        <footer>
          <button type="button" onClick={close}>
            Close
          </button>
          <button type="submit" class={one.kind ?? "primary"} disabled={busy.value}>
            {busy.value ? "Working…" : one.action}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

/** How long a message stays, milliseconds. */
const SHOWN_MS = 6_000;
const messages = signal<{ id: number; text: string; bad: boolean }[]>([]);
let nextId = 0;

/** Shows a message for a short time. */
export function say(text: string, bad = false): void {
  const id = nextId++;
  messages.value = [...messages.value.slice(-3), { id, text, bad }];
  setTimeout(() => (messages.value = messages.value.filter((one) => one.id !== id)), SHOWN_MS);
}

export function Messages() {
  return (
    <div class="messages" role="status" aria-live="polite">
      {messages.value.map((one) => (
        <div class={`message ${one.bad ? "bad" : "good"}`} key={one.id}>
          <Icon name={one.bad ? "warning" : "done"} />
          <span class="wrap">{one.text}</span>
        </div>
      ))}
    </div>
  );
}
