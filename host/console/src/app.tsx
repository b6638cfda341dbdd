// The frame around the views: navigation, what is wrong with the connection, dialogs.

import { useEffect } from "preact/hooks";
import { loggedOut, reachable } from "./api/client.ts";
import { now, useGet } from "./api/poll.ts";
import type { DeadLetterGroup, Liveness, Namespace, Page, SubjectKind } from "./api/types.ts";
import { CONSOLE } from "./lib/base.ts";
import { capital, duration, exact } from "./lib/format.ts";
import { GO, helpOpen, KEYS } from "./lib/keys.ts";
import { href, route, VIEWS, type View } from "./lib/router.ts";
import { isDark, setTheme } from "./lib/theme.ts";
import { Login } from "./login.tsx";
import { anonymous, can, logOut, session, sessionProblem } from "./session.ts";
import { Empty, ProblemNote } from "./ui/basics.tsx";
import { Dialog, Messages, Questions, say } from "./ui/dialog.tsx";
import { Icon, iconAddress } from "./ui/icons.tsx";
import { DeadLetters } from "./views/dead-letters/view.tsx";
import { Events } from "./views/events/view.tsx";
import { Orders } from "./views/orders/view.tsx";
import { Pipeline } from "./views/pipeline/view.tsx";
import { Plugins } from "./views/plugins/view.tsx";
import { System } from "./views/system/view.tsx";

export function App() {
  if (loggedOut.value) return <Login problem={loggedOut.value} />;
  if (!session.value) {
    return (
      <div class="login">
        {sessionProblem.value ? <ProblemNote problem={sessionProblem.value} /> : null}
      </div>
    );
  }
  return (
    <div class="shell">
      <Navigation />
      <main class="main" id="main">
        <Banner />
        <Current />
      </main>
      {helpOpen.value && <Help />}
      <Questions />
      <Messages />
    </div>
  );
}

function Current() {
  const { view } = route.value;
  useEffect(() => {
    document.title = view === "unknown" ? "Postrider" : `${nameOf(view)} · Postrider`;
  }, [view]);
  switch (view) {
    case "pipeline":
      return <Pipeline />;
    case "orders":
      return <Orders />;
    case "events":
      return <Events />;
    case "dead-letters":
      return <DeadLetters />;
    case "plugins":
      return <Plugins />;
    case "system":
      return <System />;
    default:
      return (
        <Empty title="No such view">
          <a href={href("pipeline")}>Go to the pipeline</a>
        </Empty>
      );
  }
}

function nameOf(view: View): string {
  return capital(view.replace("-", " "));
}

function Navigation() {
  const mayRead = can("read");
  const groups = useGet<Page<DeadLetterGroup>>(mayRead ? "dead-letters/groups" : null, 10_000, {
    status: "open",
    limit: 200,
  });
  const kinds = useGet<Page<SubjectKind>>("subjects", 0);
  const open = groups.data?.items.reduce((sum, group) => sum + group.open, 0) ?? 0;
  const more = groups.data?.next != null;
  const subjects = kinds.data?.items;
  return (
    <nav class="nav" aria-label="Views">
      <a class="brand" href={CONSOLE}>
        <img src={iconAddress()} alt="" />
        Postrider
      </a>
      <ul>
        {VIEWS.map((view) => {
          const own = view === "orders" && subjects?.length === 1 ? subjects[0]?.plural : undefined;
          const key = Object.keys(GO).find((one) => GO[one] === view);
          return (
            <li key={view}>
              <a
                href={href(view)}
                aria-current={route.value.view === view ? "page" : undefined}
                title={`g ${key}`}
              >
                <Icon name={view} size={16} />
                <span class="long">{own ? capital(own) : nameOf(view)}</span>
                <span class="short">{own ? capital(own) : capital(view.replace("dead-", ""))}</span>
                {view === "dead-letters" && open > 0 && (
                  <span class="badge bad" aria-label={`${open} open`}>
                    {open > 999 ? `${Math.floor(open / 1000)}k` : open}
                    {more ? "+" : ""}
                  </span>
                )}
              </a>
            </li>
          );
        })}
      </ul>
      <Foot />
    </nav>
  );
}

function Foot() {
  const health = useGet<Liveness>("health", 60_000);
  const namespaces = useGet<Page<Namespace>>(can("read") ? "namespaces" : null, 0);
  const several = (namespaces.data?.items.length ?? 0) > 1 ? namespaces.data!.items : null;
  const leave = async () => {
    try {
      await logOut();
    } catch (error) {
      say(error instanceof Error ? error.message : String(error), true);
    }
  };
  return (
    <div class="nav-foot">
      {several && (
        <select
          aria-label="Namespace"
          onChange={(event) => location.assign(`${event.currentTarget.value}/console/`)}
        >
          {several.map((one) => (
            <option
              key={one.namespace}
              value={one.path}
              selected={CONSOLE.startsWith(`${one.path}/`)}
            >
              {one.namespace}
            </option>
          ))}
        </select>
      )}
      {!anonymous.value && (
        <div class="row">
          <span class="ellipsis" title={session.value?.roles.join(", ")}>
            {session.value?.name}
          </span>
          <button type="button" class="bare" onClick={leave}>
            Log out
          </button>
        </div>
      )}
      <div class="row">
        <span class="connection">
          <span class={`dot ${reachable.value ? "" : "off"}`} />
          {reachable.value ? "Connected" : "Offline"}
        </span>
        <span>
          <button
            type="button"
            class="bare"
            aria-label={isDark() ? "Light theme" : "Dark theme"}
            title="t"
            onClick={() => setTheme(isDark() ? "light" : "dark")}
          >
            <Icon name="theme" />
          </button>
          <button
            type="button"
            class="bare"
            aria-label="Keyboard"
            title="?"
            onClick={() => (helpOpen.value = true)}
          >
            <Icon name="help" />
          </button>
        </span>
      </div>
      <span class="num small">{health.data ? `Version ${health.data.version}` : " "}</span>
    </div>
  );
}

/** How long before its end a session is announced to expire, milliseconds. */
const EXPIRY_NOTICE_MS = 5 * 60_000;

function Banner() {
  const expires = session.value?.expires_at_ms;
  const left = expires == null ? Infinity : expires - now.value;
  if (!reachable.value) {
    return (
      <div class="banner" role="status">
        <Icon name="warning" />
        The host does not answer. What you see may be old; the console reconnects by itself.
      </div>
    );
  }
  if (left > EXPIRY_NOTICE_MS) return null;
  return (
    <div class="banner" role="status" title={exact(expires!)}>
      <Icon name="waiting" />
      {left > 0 ? `Your session ends in ${duration(left)}.` : "Your session has ended."}
    </div>
  );
}

function Help() {
  return (
    <Dialog title="Keyboard" onClose={() => (helpOpen.value = false)}>
      <dl class="keys">
        {KEYS.map(([keys, meaning]) => (
          <>
            <dt>
              {keys.split(/\s+/).map((key) => (
                <>
                  <kbd>{key}</kbd>{" "}
                </>
              ))}
            </dt>
            <dd>{meaning}</dd>
          </>
        ))}
      </dl>
    </Dialog>
  );
}
