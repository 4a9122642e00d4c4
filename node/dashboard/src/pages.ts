// The pages by the first part of their addresses. The node serves the app at these and at nothing else: `PAGES` in
// `node/src/api/web.rs` names the same, and a test there compares the two.
export const PAGES = ["peers", "catalogue", "workspaces", "areas", "editor", "runs", "services", "ledger", "people", "policies", "setup", "settings", "sign-in"] as const;

export type Page = (typeof PAGES)[number];
