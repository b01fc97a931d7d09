"""The networks: encoder, predictor, joiner and the transducer that holds them. Import from the modules
themselves."""
