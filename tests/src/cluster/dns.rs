//! The cluster's names: `NAME.NAMESPACE.svc.cluster.local`, and pods of a headless service.
//!
//! Each question is looked up at the API server; nothing is remembered. Deliberately absent: other
//! records than A, other domains, TCP. All answers here fit into a datagram.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::api::Api;
use super::control::{ADDRESS, API};
use super::keys;

/// What all names end with.
pub(super) const DOMAIN: &str = "cluster.local";

/// Questions that are looked up at a time.
const THREADS: usize = 4;

/// Seconds for which an answer holds: tests change what it would be.
const LIFE: u32 = 1;

/// Answers questions at the control plane's address, in whose network this process is.
///
/// # Errors
/// If the port cannot be had or the authority not be read.
pub fn serve(authority: &Path) -> Result<()> {
    let socket = UdpSocket::bind((ADDRESS, 53)).context("port 53 cannot be had")?;
    let api = Api::new(
        tokio::runtime::Runtime::new()?,
        API.to_owned(),
        authority,
        keys::ADMIN,
    )?;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| work(&socket, &api));
        }
    });
    Ok(())
}

fn work(socket: &UdpSocket, api: &Api) {
    let mut packet = [0; 1500];
    // An error is a datagram that an earlier answer did not reach; there will be others.
    loop {
        let Ok((length, asker)) = socket.recv_from(&mut packet) else {
            continue;
        };
        if let Some(answer) = answer(&packet[..length], &|name| find(api, name)) {
            send(socket, asker, &answer);
        }
    }
}

fn send(socket: &UdpSocket, asker: SocketAddr, answer: &[u8]) {
    if let Err(error) = socket.send_to(answer, asker) {
        eprintln!("{asker} cannot be answered: {error}");
    }
}

/// What became of a name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Addresses(Vec<Ipv4Addr>),
    Nothing,
    /// The API server did not say.
    Unknown,
}

/// A question and its answer; nothing for what is no question. RFC 1035, 4.1.
fn answer(packet: &[u8], find: &dyn Fn(&str) -> Found) -> Option<Vec<u8>> {
    let (header, rest) = packet.split_at_checked(12)?;
    let is_answer = header[2] & 0x80 != 0;
    if is_answer || header[4..6] != [0, 1] {
        return None;
    }
    let (name, length) = name(rest)?;
    let question = rest.get(..length + 4)?;
    let (kind, class) = (&question[length..length + 2], &question[length + 2..]);
    let (code, addresses) = match find(&name) {
        Found::Addresses(all) if kind == [0, 1] && class == [0, 1] => (0, all),
        // The name is there, but not with such a record.
        Found::Addresses(_) => (0, Vec::new()),
        Found::Nothing => (3, Vec::new()),
        Found::Unknown => (2, Vec::new()),
    };
    let addresses = &addresses[..addresses.len().min(24)];
    let mut out = header[..2].to_vec();
    // An answer with authority; recursion is offered, for some clients want it.
    out.extend([0x84 | (header[2] & 1), 0x80 | code, 0, 1]);
    out.extend(u16::try_from(addresses.len()).ok()?.to_be_bytes());
    out.extend([0, 0, 0, 0]);
    out.extend(question);
    for address in addresses {
        // The name is the question's, at offset 12.
        out.extend([0xc0, 12, 0, 1, 0, 1]);
        out.extend(LIFE.to_be_bytes());
        out.extend([0, 4]);
        out.extend(address.octets());
    }
    Some(out)
}

/// A name in lower case without its last dot, and its length as it is written.
fn name(mut rest: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut length) = (Vec::new(), 1);
    loop {
        let (size, after) = rest.split_first()?;
        if *size == 0 {
            return Some((labels.join("."), length));
        }
        let size = usize::from(*size);
        // More are pointers, which a question has none of.
        let (label, after) = after.split_at_checked(size).filter(|_| size < 64)?;
        labels.push(std::str::from_utf8(label).ok()?.to_ascii_lowercase());
        (rest, length) = (after, length + size + 1);
    }
}

fn find(api: &Api, name: &str) -> Found {
    let Some((pod, service, namespace)) = parts(name) else {
        return Found::Nothing;
    };
    match addresses(api, pod, service, namespace) {
        Ok(found) if found.is_empty() => Found::Nothing,
        Ok(found) => Found::Addresses(found),
        Err(error) => {
            eprintln!("{name}: {error:#}");
            Found::Unknown
        }
    }
}

/// Pod, service and namespace of a name.
fn parts(name: &str) -> Option<(Option<&str>, &str, &str)> {
    let name = name.strip_suffix(DOMAIN)?.strip_suffix(".svc.")?;
    let labels: Vec<&str> = name.split('.').collect();
    match labels[..] {
        [service, namespace] => Some((None, service, namespace)),
        [pod, service, namespace] => Some((Some(pod), service, namespace)),
        _ => None,
    }
}

fn addresses(
    api: &Api,
    pod: Option<&str>,
    service: &str,
    namespace: &str,
) -> Result<Vec<Ipv4Addr>> {
    let path = format!("/api/v1/namespaces/{namespace}/services/{service}");
    let Some(object) = api.find(&path)? else {
        return Ok(Vec::new());
    };
    let address = object["spec"]["clusterIP"].as_str().unwrap_or_default();
    if let (None, Ok(address)) = (pod, address.parse()) {
        return Ok(vec![address]);
    }
    let slices = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
         ?labelSelector=kubernetes.io/service-name%3D{service}"
    );
    let slices = api.find(&slices)?.unwrap_or_default();
    let endpoints = each(&slices["items"]).flat_map(|slice| each(&slice["endpoints"]));
    let wanted = endpoints.filter(|endpoint| {
        let is_ready = endpoint["conditions"]["ready"] != false;
        is_ready && pod.is_none_or(|pod| endpoint["hostname"] == pod)
    });
    let addresses = wanted.flat_map(|endpoint| each(&endpoint["addresses"]));
    let addresses = addresses.filter_map(|address| address.as_str()?.parse().ok());
    Ok(addresses.collect())
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question for the A record of `a.B.svc.cluster.local`.
    fn question() -> Vec<u8> {
        let mut packet = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in ["a", "B", "svc", "cluster", "local"] {
            packet.push(u8::try_from(label.len()).unwrap());
            packet.extend(label.as_bytes());
        }
        packet.extend([0, 0, 1, 0, 1]);
        packet
    }

    #[test]
    fn a_name_that_is_there_is_answered_with_its_addresses() {
        let found = |name: &str| {
            assert_eq!(name, "a.b.svc.cluster.local");
            Found::Addresses(vec![Ipv4Addr::new(10, 1, 2, 3)])
        };
        let asked = question();
        let answered = answer(&asked, &found).unwrap();
        assert_eq!(answered[..8], [7, 9, 0x85, 0x80, 0, 1, 0, 1]);
        assert_eq!(answered[12..asked.len()], asked[12..]);
        assert!(answered.ends_with(&[0, 4, 10, 1, 2, 3]));
    }

    #[test]
    fn a_name_that_is_not_there_is_said_not_to_be_and_no_packet_is_a_panic() {
        let none = |_: &str| Found::Nothing;
        let asked = question();
        assert_eq!(answer(&asked, &none).unwrap()[3], 0x83);
        for length in 0..asked.len() {
            assert_eq!(answer(&asked[..length], &none), None);
        }
        let mut pointer = asked.clone();
        pointer[12] = 0xc0;
        assert_eq!(answer(&pointer, &none), None);
        // Another record of a name that is there: no addresses, no error.
        let mut asked = asked;
        let at = asked.len() - 3;
        asked[at] = 28;
        let found = |_: &str| Found::Addresses(vec![Ipv4Addr::LOCALHOST]);
        assert_eq!(answer(&asked, &found).unwrap()[3..8], [0x80, 0, 1, 0, 0]);
    }

    #[test]
    fn only_services_and_their_pods_have_names() {
        let service = parts("a.b.svc.cluster.local");
        assert_eq!(service, Some((None, "a", "b")));
        let pod = parts("p.a.b.svc.cluster.local");
        assert_eq!(pod, Some((Some("p"), "a", "b")));
        for name in [
            "",
            "cluster.local",
            "svc.cluster.local",
            "a.svc.cluster.local",
            "a.com",
        ] {
            assert_eq!(parts(name), None, "{name}");
        }
    }
}
