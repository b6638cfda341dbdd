// Who is logged in. The session is a cookie that scripts cannot read; the token of the log-in is sent
// once and kept nowhere.

import { computed, signal } from "@preact/signals";
import { ApiError, asProblem, get, loggedOut, send } from "./api/client.ts";
import { forgetAll } from "./api/poll.ts";
import type { Problem, Session } from "./api/types.ts";
import { permits, type Permission } from "./lib/access.ts";

/** Who is logged in; none before the host has said so, and on the log-in page. */
export const session = signal<Session | null>(null);
/** Why it is not known who is logged in, when the host does not answer. */
export const sessionProblem = signal<Problem | null>(null);
/** Whether the host works without log-in. */
export const anonymous = computed(() => session.value?.principal.startsWith("anonymous/") ?? false);

/** Asks the host who is logged in; tries again until it answers. */
export async function loadSession(): Promise<void> {
  for (let failures = 0; ; failures += 1) {
    try {
      session.value = await get<Session>("session");
      sessionProblem.value = null;
      return;
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) return;
      sessionProblem.value = asProblem(error);
      await new Promise((done) => setTimeout(done, Math.min(5_000, 500 * 2 ** failures)));
    }
  }
}

/** Exchanges an API key or a JSON Web Token for a session. */
export async function logIn(token: string): Promise<void> {
  const answer = await send("session", { method: "POST", token });
  session.value = JSON.parse(answer.text) as Session;
  loggedOut.value = null;
  forgetAll();
}

export async function logOut(): Promise<void> {
  await send("session", { method: "DELETE" });
  session.value = null;
  loggedOut.value = {
    type: "about:blank",
    title: "Logged out",
    status: 401,
    detail: "The session has ended.",
  };
}

/** Whether the principal may do something. */
export function can(wanted: Permission, stage?: string): boolean {
  return permits(session.value?.roles ?? [], wanted, stage);
}

/** Why a control is off; none if it is on. */
export function missing(wanted: Permission, stage?: string): string | undefined {
  if (can(wanted, stage)) return undefined;
  return `Needs the permission \`${wanted}\`${stage ? ` on ${stage}` : ""}`;
}
