//! A server over one flat repository of made-up packages, and how volunteers come to hold them.

use std::fs;

use super::{DEADLINE, DebRepo, Scratch, Server, ServerConfig, fetch, get, poll, random_bytes, split_url};

/// A server over one flat repository with packages `p0`, `p1`, ... of these sizes; the files' names. It sends clients to
/// volunteers however much faster it is itself, and however slow they seem on a busy machine.
pub fn serve_sizes(scratch: &Scratch, sizes: &[usize]) -> (Server, Vec<String>) {
    serve_sizes_by(ServerConfig::default().server_lines("min_share = \"0B/s\""), scratch, sizes)
}

/// The same with a configuration of its own.
pub fn serve_sizes_by(config: ServerConfig, scratch: &Scratch, sizes: &[usize]) -> (Server, Vec<String>) {
    let mut repo = DebRepo::new(&scratch.path("repo"));
    let add = |(n, size): (usize, &usize)| repo.add(&format!("p{n}"), &random_bytes(n as u64, *size));
    let files: Vec<String> = sizes.iter().enumerate().map(add).map(|file| format!("flat/{file}")).collect();
    repo.publish();
    let config = config.tree("flat", "generic-deb", &repo.root, "suites = [\"./\"]");
    (Server::start(scratch, &config), files)
}

pub fn package(scratch: &Scratch, file: &str) -> Vec<u8> {
    fs::read(scratch.path("repo").join(file.strip_prefix("flat/").expect("of that repository")))
        .expect("a package")
}

/// Asks for a package until this many volunteers hold something.
pub fn spread(server: &Server, path: &str, volunteers: usize) {
    let holders = || server.status().volunteers().iter().filter(|v| v["holdings"].as_u64() > Some(0)).count();
    let done = poll(DEADLINE, || {
        fetch(&server.url(path));
        (holders() >= volunteers && server.status().is_placed()).then_some(())
    });
    assert!(done.is_some(), "{path} is not on {volunteers} volunteers\n{}", server.status().pretty());
}

/// URLs of this many different volunteers for one package.
pub fn locations(server: &Server, path: &str, count: usize) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for _ in 0..500 {
        let answer = get(&server.url(path)).expect(302);
        let location = answer.must("location");
        if !found.iter().any(|known| split_url(known).0 == split_url(location).0) {
            found.push(location.to_owned());
        }
        if found.len() == count {
            return found;
        }
    }
    panic!("500 redirects of {path} named only {found:?}");
}
