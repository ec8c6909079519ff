//! Chromium, spoken to over its DevTools protocol through two named pipes.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// A page in a browser of its own, which ends with it.
pub(crate) struct Browser {
    process: Child,
    to: File,
    from: std::sync::mpsc::Receiver<Value>,
    next: u64,
    session: Option<String>,
    /// What the page complained of.
    pub(crate) complaints: Vec<String>,
    _home: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Browser {
    pub(crate) fn open(url: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let pipe = |name: &str| {
            let path = home.path().join(name);
            let made = Command::new("mkfifo").arg(&path).status().unwrap();
            assert!(made.success());
            path
        };
        let (input, output) = (pipe("in"), pipe("out"));
        let profile = home.path().join("profile");
        // The protocol is spoken on descriptors 3 and 4.
        let script = "exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage \
            --no-first-run --window-size=1180,1400 --user-data-dir=\"$3\" --remote-debugging-pipe \
            about:blank 3<\"$1\" 4>\"$2\"";
        let process = Command::new("/bin/sh")
            .args(["-c", script, "browser"])
            .args([&input, &output, &profile])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let to = OpenOptions::new().write(true).open(&input).unwrap();
        let mut answers = File::open(&output).unwrap();
        let (say, from) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut left = Vec::new();
            let mut chunk = [0; 65536];
            while let Ok(read @ 1..) = answers.read(&mut chunk) {
                left.extend_from_slice(&chunk[..read]);
                while let Some(end) = left.iter().position(|byte| *byte == 0) {
                    let message: Vec<u8> = left.drain(..=end).collect();
                    let message = serde_json::from_slice(&message[..end]).expect("JSON");
                    if say.send(message).is_err() {
                        return;
                    }
                }
            }
        });
        let mut browser = Self {
            process,
            to,
            from,
            next: 0,
            session: None,
            complaints: Vec::new(),
            _home: home,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in [
            "Page.enable",
            "Runtime.enable",
            "Log.enable",
            "Accessibility.enable",
        ] {
            browser.call(domain, json!({}));
        }
        browser.call("Page.navigate", json!({"url": url}));
        browser
    }

    /// Asks for something, and takes note of what is said meanwhile.
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let mut request = json!({"id": self.next, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&request).unwrap();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap();
        loop {
            let message = self.from.recv_timeout(PATIENCE);
            let message = message.unwrap_or_else(|_| panic!("{method} is not answered"));
            if message["id"] == self.next {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            match message["method"].as_str() {
                Some("Runtime.exceptionThrown" | "Log.entryAdded") => {
                    self.complaints.push(message["params"].to_string());
                }
                Some("Runtime.consoleAPICalled") if message["params"]["type"] == "error" => {
                    self.complaints.push(message["params"].to_string());
                }
                _ => {}
            }
        }
    }

    /// The value of an expression in the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let answer = self.evaluate(expression);
        let thrown = &answer["exceptionDetails"];
        assert!(thrown.is_null(), "{expression}: {thrown}");
        answer["result"]["value"].clone()
    }

    fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        self.call("Runtime.evaluate", asked)
    }

    /// Waits until an expression in the page is `wanted`.
    pub(crate) fn until(&mut self, expression: &str, wanted: &Value) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // What is asked about may not be there yet.
            let answer = self.evaluate(expression);
            if answer["result"]["value"] == *wanted {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{expression} is {answer}, not {wanted}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A picture, for whoever wants to see one: where `HEADSTART_PICTURES` says.
    pub(crate) fn picture(&mut self, name: &str) {
        use base64::Engine as _;
        let taken = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let data = taken["data"].as_str().expect("a picture");
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(data)
            .unwrap();
        assert!(bytes.starts_with(b"\x89PNG"), "no picture");
        if let Some(directory) = std::env::var_os("HEADSTART_PICTURES") {
            std::fs::write(Path::new(&directory).join(name), bytes).unwrap();
        }
    }
}
