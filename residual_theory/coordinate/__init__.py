"""The coordinate check: how updates grow along an axis of sizes."""
