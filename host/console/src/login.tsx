// The log-in: a key or a token becomes a session, and is forgotten.

import { useSignal } from "@preact/signals";
import { asProblem } from "./api/client.ts";
import type { Problem } from "./api/types.ts";
import { logIn } from "./session.ts";
import { ProblemNote } from "./ui/basics.tsx";
import { iconAddress } from "./ui/icons.tsx";

export function Login({ problem }: { problem: Problem }) {
  const token = useSignal("");
  const busy = useSignal(false);
  const refused = useSignal<Problem | null>(null);
  const submit = async (event: Event) => {
    event.preventDefault();
    busy.value = true;
    refused.value = null;
    try {
      await logIn(token.value.trim());
    } catch (error) {
      refused.value = asProblem(error);
    }
    busy.value = false;
  };
  const expected = problem.type.endsWith("/unauthenticated");
  return (
    <main class="login">
      <form onSubmit={submit}>
        <h1>
          <img src={iconAddress()} alt="" />
          Postrider
        </h1>
        <p class="muted">Log in with an API key or a JSON Web Token.</p>
        <label class="field">
          Key or token
          <input
            type="password"
            name="token"
            autocomplete="current-password"
            spellcheck={false}
            required
            placeholder="pr_…"
            value={token}
            onInput={(event) => (token.value = event.currentTarget.value)}
          />
        </label>
        <ProblemNote problem={refused.value ?? (expected ? null : problem)} />
        <button type="submit" class="primary" disabled={busy.value}>
          {busy.value ? "Logging in…" : "Log in"}
        </button>
      </form>
    </main>
  );
}
