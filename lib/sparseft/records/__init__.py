"""Define the records: what each stage writes about what it did, and what the analysis reads. One pydantic model per file.

    training_record     train.json
    merge_record        merge.json
    validation_record   validation_report.json, and the metadata of a mask
    evaluation_record   before_merge.json, evaluation.json and selection.json
    throughput_record   throughput/CELL.json, and the measurements that are joined into it
    manifests           manifest.json and selection_manifest.json of prepared inputs, report_METHOD.json of masks
    record_file         what they share

A field has a description, a unit and a role: a setting decides which results can be compared, a measurement is a result, and
provenance says where the result comes from.

Import from the modules. If this file imported them, the code digest of every job would contain every record, and an edit of one
record would rerun all jobs (study/digests.py).
"""
