// Replays a dead letter with another body: the text is edited as it is, and the difference is shown.

import { useSignal } from "@preact/signals";
import { asProblem, post } from "../../api/client.ts";
import { refresh } from "../../api/poll.ts";
import type { DeadLetter, Problem } from "../../api/types.ts";
import { diffLines } from "../../lib/diff.ts";
import { plural } from "../../lib/format.ts";
import { jsonProblem, pretty, sameJson } from "../../lib/json.ts";
import { ProblemNote } from "../../ui/basics.tsx";
import { Dialog, say } from "../../ui/dialog.tsx";
import { Diff } from "../../ui/diff.tsx";

export function Editor(props: { letter: DeadLetter; data: string | null; onClose: () => void }) {
  const { letter, onClose } = props;
  // What is no JSON is shown by the API as a JSON string; so it is edited as one.
  const before = pretty(props.data ?? "null");
  const body = useSignal(before);
  const type = useSignal(letter.event.type);
  const busy = useSignal(false);
  const refused = useSignal<Problem | null>(null);
  const invalid = jsonProblem(body.value);
  const same = !invalid && sameJson(before, body.value);
  const otherType = type.value.trim() !== letter.event.type;
  const unreadable = letter.event.type === "postrider.unreadable";
  const submit = async (event: Event) => {
    event.preventDefault();
    if (busy.value || invalid || (same && !otherType)) return;
    busy.value = true;
    refused.value = null;
    const fields: string[] = [];
    if (!same) fields.push(`"data":${body.value}`);
    if (otherType) fields.push(`"type":${JSON.stringify(type.value.trim())}`);
    try {
      await post(`dead-letters/${letter.id}/replay`, `{${fields.join(",")}}`);
      say(`Dead letter ${letter.id} runs again, edited`);
      refresh("dead-letters");
      onClose();
    } catch (error) {
      refused.value = asProblem(error);
    }
    busy.value = false;
  };
  return (
    <Dialog title={`Edit and replay dead letter ${letter.id}`} onClose={onClose} wide>
      <form onSubmit={submit}>
        {unreadable && (
          <label class="field">
            Type, which the stage consumes
            <input
              type="text"
              required
              value={type}
              onInput={(event) => (type.value = event.currentTarget.value)}
            />
          </label>
        )}
        <label class="field">
          Body
          <textarea
            name="body"
            rows={14}
            spellcheck={false}
            aria-invalid={invalid ? "true" : undefined}
            aria-describedby="body-problem"
            value={body}
            onInput={(event) => (body.value = event.currentTarget.value)}
          />
          <span id="body-problem" class={invalid ? "bad-text" : ""}>
            {invalid ?? (same ? "Not changed yet." : changes(before, pretty(body.value)))}
          </span>
        </label>
        {!invalid && !same && <Diff before={before} after={pretty(body.value)} />}
        <ProblemNote problem={refused.value} />
        <footer>
          <button type="button" onClick={onClose}>
            Close
          </button>
          <button
            type="submit"
            class="primary"
            disabled={busy.value || invalid !== null || (same && !otherType)}
          >
            Replay edited
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

function changes(before: string, after: string): string {
  const lines = diffLines(before, after);
  const amount = (kind: string) => lines.filter((one) => one.kind === kind).length;
  return `${plural(amount("removed"), "line")} removed, ${plural(amount("added"), "line")} added.`;
}
