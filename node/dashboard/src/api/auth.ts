// Who is signed in. The one place that knows how: by the token of the home, or by a session that a login link or a provider of
// identities began, whose cookie the browser keeps and no script can read. All others ask for `headers()`.

const KEY = "opencloud.token";
const listeners = new Set<() => void>();

export type Standing = "asking" | "in" | "out";
let session: Standing = "asking";

/** Kept until the tab is closed, and never in an address. */
function token(): string | null {
  return sessionStorage.getItem(KEY);
}

function tell(): void {
  listeners.forEach((listener) => listener());
}

export function standing(): Standing {
  return token() === null ? session : "in";
}

/** Asks the node, once, whether the browser has a session. */
export async function askSession(): Promise<void> {
  if (token() !== null || session !== "asking") return;
  const response = await fetch("/api/v1/session", { headers: headers() }).catch(() => null);
  session = response?.ok === true ? "in" : "out";
  tell();
}

export function signIn(text: string): void {
  sessionStorage.setItem(KEY, text.trim());
  tell();
}

/** The node knows the browser no more. */
export function dropped(): void {
  sessionStorage.removeItem(KEY);
  session = "out";
  tell();
}

export async function signOut(): Promise<void> {
  const known = token() === null ? await fetch("/api/v1/session", { method: "DELETE", headers: headers() }).catch(() => null) : null;
  const told = (await known?.json().catch(() => null)) as { provider?: string | null } | null;
  dropped();
  // Who came by way of a provider logs out there, too.
  if (typeof told?.provider === "string") location.assign(told.provider);
}

/** What every request to the node carries; a page elsewhere cannot send the first. */
export function headers(): Record<string, string> {
  const known = token();
  return known === null ? { "x-opencloud": "1" } : { "x-opencloud": "1", authorization: `Bearer ${known}` };
}

export function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
