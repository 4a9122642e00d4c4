// A workspace as it is written.

import type { Workspace } from "../api/types";

export type Content = { about: string; notes: string; resources: string[]; searches: Record<string, string>; workflows: Record<string, string> };

export const workspaceAt = (name: string) => `/workspaces/${encodeURIComponent(name)}`;

export function contentOf(workspace: Workspace): Content {
  const { about, notes, searches, workflows } = workspace;
  return { about, notes, searches, workflows, resources: workspace.resources.map((one) => one.id) } as Content;
}
