import { Link } from "wouter";

import { areaAt, type AreaSummary } from "../api/areas";
import { useGet } from "../api/use";

/** The area of a run, by its name where that is known here. */
export function AreaName({ id }: { id: string }) {
  const all = useGet<AreaSummary[]>("/areas");
  return <Link href={areaAt(id)}>{all.data?.find((one) => one.id === id)?.name ?? `area ${id.slice(0, 8)}`}</Link>;
}
