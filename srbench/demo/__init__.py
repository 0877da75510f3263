"""A web page on which two pipelines upscale the same picture, to be tried and compared by eye."""
