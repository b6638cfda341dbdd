// What the principal may do, as docs/auth.md defines its roles. The host decides; this only keeps the
// console from offering what would be refused.

export type Permission = "read" | "submit" | "operate" | "admin" | "payloads";

const INCLUDES: Record<string, Permission[]> = {
  read: ["read"],
  submit: ["submit"],
  operate: ["operate", "read"],
  admin: ["admin", "read", "submit", "operate"],
  payloads: ["payloads"],
};

/** Whether roles permit something, on a stage or on everything. */
export function permits(roles: readonly string[], wanted: Permission, stage?: string): boolean {
  return roles.some((role) => {
    const [name = "", scope] = role.split(":", 2);
    if (!INCLUDES[name]?.includes(wanted)) return false;
    return scope === undefined || (stage !== undefined && scope === `stage/${stage}`);
  });
}
