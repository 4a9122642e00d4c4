"""Picks the fastest of several place-and-route results; runs in CPython for WebAssembly.

pick.py --seeds SEEDS.json --reports REPORT.json... --bitstreams BITS.asc...   (same order everywhere)

Writes best.asc, summary.json and the bar chart report.svg.
"""
import json
import shutil
import sys


def lists(args):
    """The arguments after each `--name`."""
    found, name = {}, None
    for arg in args:
        if arg.startswith("--"):
            name = arg[2:]
            found[name] = []
        elif name is None:
            sys.exit(f"pick.py: `{arg}` stands before any option")
        else:
            found[name].append(arg)
    return found


def result(seed, report, bits):
    with open(report) as file:
        data = json.load(file)
    clocks = data.get("fmax", {})
    if not clocks:
        sys.exit(f"pick.py: {report}: no clock frequency in the report of seed {seed}")
    mhz = min(clock["achieved"] for clock in clocks.values())
    return {"seed": seed, "mhz": round(mhz, 2), "logic_cells": data["utilization"]["ICESTORM_LC"]["used"], "bits": bits}


def chart(results):
    """Horizontal bars, best first. Rectangles only: the renderer has no fonts."""
    rows = []
    for i, r in enumerate(results):
        colour = "#2a9d6f" if i == 0 else "#9aa5b1"
        rows.append(f'<rect x="10" y="{10 + 30 * i}" width="{380 * r["mhz"] / results[0]["mhz"]:.1f}" height="22" rx="3" fill="{colour}"/>')
    height = 12 + 30 * len(results)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="400" height="{height}">'
            f'<rect width="400" height="{height}" fill="#ffffff"/>{"".join(rows)}</svg>\n')


def main():
    args = lists(sys.argv[1:])
    with open(args["seeds"][0]) as file:
        seeds = json.load(file)
    reports, bits = args["reports"], args["bitstreams"]
    if not len(seeds) == len(reports) == len(bits):
        sys.exit(f"pick.py: {len(seeds)} seeds, {len(reports)} reports and {len(bits)} bitstreams: they must be as many")
    results = sorted((result(*row) for row in zip(seeds, reports, bits)), key=lambda r: (-r["mhz"], r["seed"]))
    shutil.copyfile(results[0]["bits"], "best.asc")
    for r in results:
        del r["bits"]
    with open("summary.json", "w") as file:
        json.dump({"best": results[0], "all": results}, file, indent=1)
    with open("report.svg", "w") as file:
        file.write(chart(results))
    print(f"best: seed {results[0]['seed']} with {results[0]['mhz']} MHz")


main()
