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
    resources:
        mem_mb=STUDY.resources.memory_mb,  # one weight matrix, its ranking, and the packed masks of all sparsities
    params:
        code=code("compute_masks.py"),
        script=script("compute_masks.py"),
        model=grid.MODEL,
        folder=grid.MASKS,
        sparsities=[str(s / 100) for s in STUDY.grid.sparsities],
        seed=STUDY.masks.seed,
    message:
        "compute the {wildcards.method} masks of {wildcards.model}"
    conda:
        "../envs/sparseft.yaml"
    shell:
        "{PYTHON:q} {params.script:q}"
        " --model_path {params.model:q}"
        " --output_dir {params.folder:q}"
        " --sparsity {params.sparsities}"
        " --method {wildcards.method:q}"
        " --seed {params.seed}"
        " --plot"
        " 2> {log:q}"
