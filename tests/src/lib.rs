//! Local Hub, registry, fault server and shaped links that tests and the demo run against.
