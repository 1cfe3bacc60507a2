"""Workflows with structures like those of recorded ones and drawn durations, and the modules of the benchmark."""

import importlib
import random
import sys

from places import ROOT

BENCHMARKS = ROOT / "benchmarks"


def benchmark_module(name):
    """Import a module of the benchmark, which is in no package; its directory stays off the path of everything else."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


shapes, traces = benchmark_module("shapes"), benchmark_module("traces")


class Nodes:
    """Collects nodes: what is added gets a name, and is of a kind."""

    def __init__(self):
        self.parents = {}
        self.category = {}

    def add(self, kind, *parents):
        name = f"{kind}_{len(self.parents):04}"
        self.parents[name] = list(dict.fromkeys(parents))
        self.category[name] = kind
        return name

    def chain(self, kinds, *parents):
        for kind in kinds:
            parents = (self.add(kind, *parents),)
        return parents[0]


def chains_behind_a_scatter(nodes):
    """As epigenomics: each lane is split, its parts go through four steps, and are merged twice."""
    lanes = []
    for lane in range(3):
        split = nodes.add("split")
        parts = [nodes.chain(("filter", "convert", "pack", "align"), split) for _ in range(4 + 4 * lane)]
        lanes.append(nodes.add("merge", *parts))
    nodes.chain(("merge_all", "index", "pileup"), *lanes)


def fork_joins_with_shared_inputs(nodes):
    """As 1000genome: parts and their merge for each chromosome, then each of them with each population."""
    populations = [nodes.add("population") for _ in range(5)]
    for _ in range(3):
        merged = nodes.add("merge", *[nodes.add("individuals") for _ in range(8)])
        sifted = nodes.add("sifting")
        for population in populations:
            nodes.add("overlap", merged, sifted, population)
            nodes.add("frequency", merged, sifted, population)


def neighbours_through_bottlenecks(nodes):
    """As montage: images, differences of neighbours, one fit for all, corrections, then a chain."""
    images = [nodes.add("project") for _ in range(12)]
    pairs = [(a, b) for i, a in enumerate(images) for b in images[i + 1 : i + 3]]
    model = nodes.chain(("concat", "model"), *[nodes.add("difference", a, b) for a, b in pairs])
    corrected = [nodes.add("background", image, model) for image in images]
    nodes.chain(("table", "add", "shrink"), *corrected)


def samples_by_chromosomes(nodes):
    """As soykb: a chain for each sample, calls for each chromosome, joined over the samples; one merge beside all."""
    calls = []
    for _ in range(4):
        ready = nodes.chain(("align", "sort", "dedup", "replace", "target", "realign"))
        calls.append([nodes.add("call", ready) for _ in range(8)])
    joined = [nodes.add("join", *column) for column in zip(*calls, strict=True)]
    nodes.add("merge", *[call for row in calls for call in row])
    combined = nodes.add("combine", *joined)
    nodes.chain(("select_snp", "filter_snp"), combined)
    nodes.chain(("select_indel", "filter_indel"), combined)


def uneven_kinds(nodes):
    """As hic: nearly each node is of a kind of its own, two long chains meet, and many reports follow."""
    genome, sizes = nodes.add("genome"), nodes.add("sizes")
    ends = [nodes.chain(("map", "trim", "map_again", "merge"), genome) for _ in range(2)]
    valid = nodes.chain(("combine", "valid", "unique"), *ends)
    matrix = nodes.chain(("pairs", "load", "balance"), valid, sizes)
    reports = [nodes.add(f"report{i}", matrix, sizes) for i in range(8)]
    nodes.add("summary", *reports, nodes.add("quality"))


def a_summary_that_few_need(nodes):
    """As cycles: two of three branches of each part are cheap to skip, the plots at the end of one are not."""
    inner, outer = [], []
    for _ in range(12):
        base = nodes.add("base")
        simple, rich = nodes.add("simple", base), nodes.add("rich", base)
        inner.append(simple)
        outer.append(nodes.add("parse", simple, rich))
    nodes.chain(("summary", "plots"), *inner)
    nodes.add("rich_summary", *outer)


def short_ones_beside_a_long_chain(nodes):
    for _ in range(60):
        nodes.add("short")
    nodes.chain(("long",) * 8)
    for _ in range(60):
        nodes.add("short")


def levels(nodes):
    """Fork and join, again and again."""
    before = ()
    for level in range(5):
        before = (nodes.add(f"join{level}", *[nodes.add(f"part{level}", *before) for _ in range(9)]),)


STRUCTURES = {
    structure.__name__: structure
    for structure in (
        chains_behind_a_scatter,
        fork_joins_with_shared_inputs,
        neighbours_through_bottlenecks,
        samples_by_chromosomes,
        uneven_kinds,
        a_summary_that_few_need,
        short_ones_beside_a_long_chain,
        levels,
    )
}


def workflow(structure, seed):
    """Return a workflow of 20 s of work in all, of one of these structures or a shape of the benchmark.

    Durations go over six orders of magnitude from kind to kind, and by half an order within one. One node in twenty,
    and now and then a whole kind, takes no time.
    """
    rng = random.Random(f"{structure} {seed}")
    nodes = Nodes()
    if structure in STRUCTURES:
        STRUCTURES[structure](nodes)
    else:
        nodes.parents = shapes.graph(structure, 8, 12)
        nodes.category = {name: f"kind{rng.randrange(4)}" for name in nodes.parents}
    typical = {
        kind: 0.0 if rng.random() < 0.05 else 10 ** rng.uniform(-5, 1)
        for kind in dict.fromkeys(nodes.category.values())
    }
    seconds = {
        name: 0.0 if rng.random() < 0.05 else typical[kind] * 10 ** rng.gauss(0, 0.25)
        for name, kind in nodes.category.items()
    }
    return traces.Trace(f"{structure} {seed}", nodes.parents, seconds, nodes.category).scaled(20.0)
