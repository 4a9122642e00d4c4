// Attempts of a run as bars on one line of time.

import type { Run } from "../api/types";

/** Bars in one picture; the last ones to begin are left out above it. */
export const BARS_MAX = 200;

export type Bar = { id: string; name: string; where: string; state: string; begin: number; end: number };

export function rows(run: Run, now: number): { bars: Bar[]; from: number; to: number } {
  const mapped = new Set(run.steps.filter((step) => step.tasks > 1).map((step) => step.step));
  const bars: Bar[] = [];
  for (const task of run.tasks) {
    if (task.started_ms === null) continue;
    const place = mapped.has(task.step) ? `${task.step} ${task.index}` : task.step;
    bars.push({
      id: `${task.step}.${task.index}#${task.attempt}`,
      name: task.attempt > 1 ? `${place}, try ${task.attempt}` : place,
      where: task.org_name ?? "",
      state: task.state,
      begin: task.started_ms,
      end: Math.max(task.started_ms, task.ended_ms ?? run.ended_ms ?? now),
    });
  }
  bars.sort((a, b) => a.begin - b.begin || (a.id < b.id ? -1 : 1));
  const to = bars.reduce((max, bar) => Math.max(max, bar.end), run.submitted_ms + 1);
  return { bars: bars.slice(0, BARS_MAX), from: run.submitted_ms, to };
}
