"""Hold the stages of a study, one file each: what decides a result, its version, what a job needs, and what the stage
does.

    settings(config, wildcards)   the flags that decide the result of a job with these wildcards; a change reruns it
    effort(config, wildcards)     the flags that change its time or memory, and no result
    needs(config, job, sizes_of)  memory, tokens and more (study/planning/needs.py); without it, a job reads no model
    VERSION                       a whole number; raise it by hand when results change
    run(...)                      the work; its parameters are the flags of workflow/scripts/NAME.py

Plans import these files, so torch and other large libraries are imported inside `run`.
"""
