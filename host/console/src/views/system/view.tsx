// The system: health, limits, keys and the audit trail, each under a tab with its own address.

import { href, route } from "../../lib/router.ts";
import { can } from "../../session.ts";
import { Empty } from "../../ui/basics.tsx";
import { TopBar } from "../../ui/topbar.tsx";
import { Audit } from "./audit.tsx";
import { Chains } from "./chains.tsx";
import { ConfigurationTab } from "./configuration.tsx";
import { Keys } from "./keys.tsx";
import { LimitsTab } from "./limits.tsx";
import { Overview } from "./overview.tsx";

const TABS = [
  ["overview", "Overview"],
  ["audit", "Audit trail"],
  ["limits", "Limits"],
  ["chains", "Chains"],
  ["keys", "Keys"],
  ["config", "Configuration"],
] as const;

export function System() {
  const tab = route.value.id ?? "overview";
  return (
    <>
      <TopBar title="System">
        <div class="tabs">
          {TABS.map(([name, text]) => (
            <a
              key={name}
              href={href("system", name === "overview" ? null : name)}
              aria-current={tab === name ? "page" : undefined}
            >
              {text}
            </a>
          ))}
        </div>
      </TopBar>
      <div class="page">
        <Tab name={tab} />
      </div>
    </>
  );
}

function Tab({ name }: { name: string }) {
  switch (name) {
    case "overview":
      return <Overview />;
    case "audit":
      return can("admin") ? <Audit /> : <Needs permission="admin" />;
    case "limits":
      return can("operate") ? <LimitsTab /> : <Needs permission="operate" />;
    case "chains":
      return can("read") ? <Chains /> : <Needs permission="read" />;
    case "keys":
      return can("admin") ? <Keys /> : <Needs permission="admin" />;
    case "config":
      return can("admin") ? <ConfigurationTab /> : <Needs permission="admin" />;
    default:
      return <Empty title="No such page" />;
  }
}

function Needs({ permission }: { permission: string }) {
  return (
    <Empty title="Not for you">
      Seeing this needs the permission <code>{permission}</code>.
    </Empty>
  );
}
