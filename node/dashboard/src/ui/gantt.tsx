// When each attempt ran, and where.

import type { Run } from "../api/types";
import { rows } from "../lib/gantt";
import { span } from "../lib/format";
import { toneOf } from "./parts";

export function Gantt({ run, now }: { run: Run; now: number }) {
  const { bars, from, to } = rows(run, now);
  if (bars.length === 0) return <p className="soft">No attempt has started yet.</p>;
  const [width, left, line] = [960, 150, 22];
  const height = bars.length * line + 28;
  const x = (ms: number) => left + ((ms - from) / Math.max(1, to - from)) * (width - left - 140);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => from + (to - from) * part);
  return (
    <div className="gantt" tabIndex={0} role="region" aria-label="When tasks ran">
      <svg viewBox={`0 0 ${width} ${height}`} width="100%" role="img" aria-label={bars.map((bar) => `${bar.name} at ${bar.where}, ${bar.state}, after ${span(bar.begin - from)} for ${span(bar.end - bar.begin)}`).join("; ")}>
        {ticks.map((at) => (
          <g key={at}>
            <line x1={x(at)} x2={x(at)} y1="0" y2={height - 22} />
            <text x={x(at)} y={height - 6} textAnchor="middle">{span(at - from)}</text>
          </g>
        ))}
        {bars.map((bar, nth) => (
          <g key={bar.id}>
            <title>{`${bar.name}: ${bar.state} at ${bar.where}, ${span(bar.end - bar.begin)}`}</title>
            <text x={left - 10} y={nth * line + 15} textAnchor="end">{bar.name}</text>
            <rect className={toneOf(bar.state)} x={x(bar.begin)} y={nth * line + 4} width={Math.max(3, x(bar.end) - x(bar.begin))} height={line - 8} />
            <text x={x(bar.end) + 6} y={nth * line + 15}>{bar.where}</text>
          </g>
        ))}
      </svg>
    </div>
  );
}
