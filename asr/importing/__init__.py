"""Models of other toolkits made into model folders of ours."""
