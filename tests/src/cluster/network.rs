//! Being in a machine's network from outside: threads that live there, and ports of this
//! machine's loopback that lead there.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Runtime;

use super::machine::Machine;
use super::process::Process;

/// A runtime whose tasks are in the network of the machine with that first process: what they
/// listen on and connect to is there. `block_on` stays outside; `spawn` is inside.
///
/// # Errors
/// If the machine is gone.
pub(super) fn runtime(init: &Process) -> Result<Runtime> {
    let network = open(init)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(move || {
            let net = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(network.as_fd(), net).expect("the network is held open");
        })
        .build()
        .context("no runtime")
}

/// Opens a port on this machine's loopback for each of `targets`, then enters the network of the
/// machine with the first process `init` and passes connections on until it is ended.
///
/// # Errors
/// If a port cannot be had or the machine is gone.
pub fn relay(init: u32, targets: &[SocketAddr], ready: impl FnOnce(&[SocketAddr])) -> Result<()> {
    let network = open(&Process::now("machine", init)?)?;
    let mut listeners = Vec::new();
    for target in targets {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
        listeners.push((listener, *target));
    }
    let mut addresses = Vec::new();
    for (listener, _) in &listeners {
        addresses.push(listener.local_addr()?);
    }
    // Listeners stay where they were opened; threads started from here on are inside.
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot enter the machine's network")?;
    ready(&addresses);
    let accepting = listeners.into_iter().map(|(listener, target)| {
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || pass(stream, target));
            }
        })
    });
    for thread in accepting.collect::<Vec<_>>() {
        let _ = thread.join();
    }
    Ok(())
}

/// Both directions, until both have ended.
fn pass(near: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let far = TcpStream::connect(target)?;
    let (near_in, far_out) = (near.try_clone()?, far.try_clone()?);
    let up = std::thread::spawn(move || copy(&near_in, &far_out));
    copy(&far, &near);
    let _ = up.join();
    Ok(())
}

/// However it ends, the other side learns of it.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}

fn open(init: &Process) -> Result<File> {
    let path = format!("/proc/{}/ns/net", init.pid);
    File::open(&path).with_context(|| format!("open {path}: {} is gone", init.name))
}

/// Makes a link between two machines: `name` at one end, `eth0` at the other.
pub(super) fn put_link(near: &Machine, far: &Machine, name: &str) -> Result<()> {
    // In the mounts and processes of this machine, where `far` has the number known here.
    let output = Command::new("nsenter")
        .arg(format!("--net=/proc/{}/ns/net", near.init.pid))
        .args(["ip", "link", "add", name, "type", "veth", "peer", "name"])
        .args(["eth0", "netns", &far.init.pid.to_string()])
        .output()
        .context("nsenter cannot be started")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "a link to {name}: {errors}");
    Ok(())
}
