// The steps of a workflow and where they stand.

import { BOX, draw, type Vertex } from "../lib/dag";

export type Standing = { state: string; committed: number; tasks: number; note?: string };

function look(standing: Standing | undefined): string {
  switch (standing?.state) {
    case "done": return "done";
    case "open": return "live";
    case "failed": return "bad";
    case "skipped": return "off";
    default: return "";
  }
}

function words(standing: Standing | undefined): string {
  if (standing === undefined) return "";
  if (standing.state === "skipped" || standing.state === "waiting") return standing.state;
  return standing.tasks > 1 ? `${standing.committed} of ${standing.tasks} tasks` : standing.state === "done" ? "done" : standing.state === "failed" ? "failed" : "running";
}

export function Dag({ steps, standings }: { steps: Vertex[]; standings: Map<string, Standing> }) {
  const { places, edges, width, height } = draw(steps);
  const told = steps.map((step) => `${step.id}: ${words(standings.get(step.id))}`).join("; ");
  const pad = 6;
  return (
    <figure className="dag" tabIndex={0} role="group" aria-label="Graph of the steps">
      <svg width={width + 2 * pad} height={height + 2 * pad} viewBox={`${-pad} ${-pad} ${width + 2 * pad} ${height + 2 * pad}`} role="img" aria-label={told}>
        {edges.map(({ from, to }) => {
          const [a, b] = [places.get(from)!, places.get(to)!];
          const [x1, y1, x2, y2] = [a.x + BOX.width, a.y + BOX.height / 2, b.x, b.y + BOX.height / 2];
          const bend = Math.max(24, (x2 - x1) / 2);
          return <path key={`${from} ${to}`} d={`M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`} />;
        })}
        {steps.map((step) => {
          const { x, y } = places.get(step.id)!;
          const standing = standings.get(step.id);
          const part = standing === undefined || standing.tasks === 0 ? 0 : standing.committed / standing.tasks;
          return (
            <g key={step.id} className={look(standing)} transform={`translate(${x} ${y})`}>
              <rect className="box" width={BOX.width} height={BOX.height} rx="11" />
              <text x="13" y="24">{step.id.length > 18 ? `${step.id.slice(0, 17)}…` : step.id}</text>
              <text className="fine" x="13" y="41">{words(standing)}</text>
              {standing !== undefined && standing.tasks > 1 && (
                <>
                  <rect className="track" x="13" y="48" width={BOX.width - 26} height="4" rx="2" />
                  <rect className="bar" x="13" y="48" width={(BOX.width - 26) * part} height="4" rx="2" />
                </>
              )}
            </g>
          );
        })}
      </svg>
    </figure>
  );
}
