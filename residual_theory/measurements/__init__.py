"""What a run obtains its data by: descriptions of measurements, each of which can be made, stored and pooled."""
