//! The `kwok` provider keeps every provider's promises.

use headstart_fake_clouds::kwok::Nodes;

headstart_fake_clouds::conformance!(Nodes::start().unwrap());
