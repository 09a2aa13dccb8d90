"""Parts of score tables without the mark of their run: runs of other configurations have other marks, over equal rows."""

import io

import pyarrow.parquet as pq


def without_mark(data):
    """The bytes of a part, as they are when it has no mark."""
    table = pq.read_table(io.BytesIO(data))
    metadata = {key: value for key, value in table.schema.metadata.items() if key != b"beam_curate.run"}
    pq.write_table(table.replace_schema_metadata(metadata), out := io.BytesIO())
    return out.getvalue()
