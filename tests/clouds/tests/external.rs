//! The `external` provider keeps every provider's promises.

use headstart_fake_clouds::external::Fleet;

headstart_fake_clouds::conformance!(Fleet::start().unwrap());
