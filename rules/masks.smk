# One job a model and method: every sparsity of the grid comes from one ranking.
rule compute_masks:
    input:
        manifest=grid.MANIFEST,
    output:
        masks=expand(grid.MASK, sparsity=[f"{s:02d}" for s in STUDY.grid.sparsities], allow_missing=True),
        report=f"{grid.MASKS}/report_{{method}}.json",
        plot=f"{grid.MASKS}/plots/sparsity_{{method}}.png",
    log:
        "results/logs/compute_masks/{model}_{method}.log",
    benchmark:
        "results/benchmarks/compute_masks/{model}_{method}.tsv"
    wildcard_constraints:
        method="|".join(grid.PATTERNS),
    conda:
        "../envs/sparseft.yaml"
    resources:
        mem_mb=STUDY.resources.memory_mb,  # one weight matrix, its ranking, and the packed masks of all sparsities
    params:
        code=code("compute_masks.py"),
        model=subpath(input.manifest, parent=True),
        folder=grid.MASKS,
        method=lambda w: w.get("method", grid.DENSE),
        sparsities=lambda w: [str(s / 100) for s in STUDY.grid.sparsities] if "method" in w.keys() else ["0"],
        seed=STUDY.masks.seed,
    message:
        "compute the {params.method} masks of {wildcards.model}"
    shell:
        'python "$SCRIPTS/compute_masks.py"'
        " --model_path {params.model:q}"
        " --output_dir {params.folder:q}"
        " --sparsity {params.sparsities}"
        " --method {params.method:q}"
        " --seed {params.seed}"
        " --plot"
        " 2> {log:q}"


# The mask of the dense runs, which every method shares: sparsity 00, all ones.
use rule compute_masks as compute_dense_mask with:
    output:
        mask=expand(grid.MASK, sparsity="00", method=grid.DENSE, allow_missing=True),
    log:
        "results/logs/compute_masks/{model}_dense.log",
    benchmark:
        "results/benchmarks/compute_masks/{model}_dense.tsv"
