"""A finished run in other tools' formats: TFRecord, resized WebDataset, dataset card, Croissant, and layouts."""
