//! The `azure` provider keeps every provider's promises, with an agent pool per node.

use headstart_fake_clouds::azure::Azure;

headstart_fake_clouds::conformance!(Azure::start().unwrap());
