// What policies speak of; `node/src/policy/request.rs` names the same.

export const ACTIONS = ["see", "plan", "watch", "read_policies", "use", "fetch", "store", "quote", "submit", "cancel", "steer", "enter", "serve", "publish", "withdraw", "edit", "read_ledger", "manage_areas", "manage_peers", "manage_users", "manage_policies", "manage_node"] as const;

export const KINDS = ["node", "data", "algorithm", "compute", "storage", "workflow", "service", "disk", "workspace", "area", "run", "org", "group"] as const;
