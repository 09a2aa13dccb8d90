"""Images that are not in shards yet: folders of files, tables of paths, Parquet with image bytes; and packing them."""
