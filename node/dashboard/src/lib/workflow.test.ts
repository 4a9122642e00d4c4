import { describe, expect, it } from "vitest";

import terrain from "../../../../examples/terrain/workflow.yaml?raw";

import { addOutputPort, addParam, addStep, closesCircle, connect, disconnect, EMPTY, fits, freeName, read, removeOutput, removeParam, removeStep, setAfter, setOutput, typeOf, vertices, whyNot } from "./workflow";

describe("a document", () => {
  it("is read as its graph", () => {
    const model = read(terrain);
    expect(model.name).toBe("terrain");
    expect(vertices(model)).toEqual([
      { id: "split", after: [] },
      { id: "slope", after: ["split"] },
      { id: "hillshade", after: ["split"] },
      { id: "contour", after: ["split"] },
      { id: "mosaic", after: ["split", "slope", "hillshade", "contour"] },
    ]);
    expect(typeOf(model, { step: "split", output: "tiles" })).toBe("list");
    expect(typeOf(model, { step: "slope", output: "tile" })).toBe("list");
    expect(typeOf(model, { param: "dem" })).toBe("file");
    expect(() => read("a: [")).toThrow();
    expect(read("")).toEqual({ name: "", params: [], steps: [], outputs: [] });
    expect(read("steps: [1]\nparams: 7").steps).toEqual([]);
  });

  it("says why a value may not go somewhere", () => {
    const model = read(terrain);
    const to = (step: string, wanted: "file" | "list" | "any") => ({ step, input: "in", wanted });
    expect(whyNot(model, { param: "dem" }, to("slope", "file"))).toBeNull();
    expect(whyNot(model, { param: "dem" }, to("slope", "list"))).toBe("parameter dem gives a file, and slope wants a list for in");
    expect(whyNot(model, { step: "mosaic", output: "picture" }, to("slope", "any"))).toContain("close a circle");
    expect(whyNot(model, { step: "slope", output: "tile" }, to("slope", "any"))).toBe("slope cannot wait for itself");
    expect(whyNot(model, { param: "dem" }, null)).toContain("no output");
    expect(whyNot(model, { step: "slope", output: "tile" }, null)).toBeNull();
  });

  it("gets steps for every runtime", () => {
    const drawn = ["wasi", "container", "vm", "slurm"].reduce((text, runtime) => addStep(text, { id: runtime, runtime, program: `blake3:${runtime}`, outputs: [] }), EMPTY);
    expect(read(drawn).steps.map((step) => [step.runtime, step.program])).toEqual([["wasi", "blake3:wasi"], ["container", "blake3:container"], ["vm", "blake3:vm"], ["slurm", "blake3:slurm"]]);
    expect(drawn).toContain("image: blake3:container");
  });

  it("keeps comments, order and all else when one thing is changed", () => {
    const changed = connect(terrain, { step: "slope", output: "tile" }, "mosaic", "contour");
    expect(changed).toContain("# From an elevation model");
    expect(changed).toContain("contour: {from: slope.tile}");
    expect(read(changed).steps.map((step) => step.id)).toEqual(read(terrain).steps.map((step) => step.id));
    const staged = connect(terrain, { param: "tiles" }, "split", "dem");
    expect(read(staged).steps[0]?.inputs).toEqual([{ name: "dem", source: { param: "tiles" } }]);
    expect(staged).toContain("dem: {param: tiles, path: dem.pgm}");
  });

  it("grows from nothing by what is drawn", () => {
    let text = addStep(EMPTY, { id: "count", program: "blake3:00", outputs: [{ name: "n", type: "json" }, { name: "list", type: "list" }] });
    text = addParam(text, "book", "file", "What to read");
    text = connect(text, { param: "book" }, "count", "book");
    text = addStep(text, { id: "draw", program: "draw.wasm", outputs: [] });
    text = addOutputPort(text, "draw", "picture", "file");
    text = connect(text, { step: "count", output: "n" }, "draw", "n");
    text = setOutput(text, "picture", { step: "draw", output: "picture" });
    const model = read(text);
    expect(vertices(model)).toEqual([{ id: "count", after: [] }, { id: "draw", after: ["count"] }]);
    expect(model.outputs).toEqual([{ name: "picture", source: { step: "draw", output: "picture" } }]);
    expect(text.indexOf("params:")).toBeLessThan(text.indexOf("steps:"));
    expect(text).not.toContain("steps: {");
  });

  it("loses with a step or parameter all that came from it", () => {
    const less = read(removeStep(terrain, "split"));
    expect(less.steps.map((step) => [step.id, step.isMapped])).toEqual([["slope", false], ["hillshade", false], ["contour", false], ["mosaic", false]]);
    expect(less.steps[3]?.inputs.map((input) => input.name)).toEqual(["slope", "hillshade", "contour"]);
    expect(read(removeStep(terrain, "mosaic")).outputs).toEqual([]);
    expect(read(removeParam(terrain, "dem")).steps[0]?.inputs).toEqual([]);
    expect(read(disconnect(terrain, "mosaic", "slope")).steps[4]?.inputs).toHaveLength(3);
    expect(read(removeOutput(terrain, "stats")).outputs).toHaveLength(5);
    expect(read(setAfter(setAfter(terrain, "contour", ["slope"]), "contour", [])).steps[3]?.after).toEqual([]);
  });
});

describe("connections", () => {
  it("fit by their types and make no circle", () => {
    expect([fits("file", "file"), fits("int", "float"), fits("file", "any"), fits("file", "list"), fits("float", "int")]).toEqual([true, true, true, false, false]);
    const model = read(terrain);
    expect(closesCircle(model, "mosaic", "split")).toBe(true);
    expect(closesCircle(model, "split", "split")).toBe(true);
    expect(closesCircle(model, "slope", "contour")).toBe(false);
  });
  it("get names that are free", () => {
    expect(freeName("Slope of Terrain", ["slope_of_terrain"])).toBe("slope_of_terrain_2");
    expect(freeName("7 ü!", [])).toBe("u");
    expect(freeName("!!", [])).toBe("step");
  });
});
