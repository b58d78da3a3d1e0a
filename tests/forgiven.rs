//! Metadata that is not as it should be, with real clients: what they forgive is served, and what they refuse does
//! not take the place of what they accept.

mod support;

use std::fs;
use std::path::Path;

use sha2::Digest as _;
use support::generation::{Signer, gzip, package_bytes};
use support::{Apt, DEADLINE, Dnf, Scratch, Server, ServerConfig, Upstream, Zypper, get, hex};

fn write(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("below the root")).expect("a scratch folder");
    fs::write(path, bytes).expect("a scratch folder");
}

fn digest(kind: &str, bytes: &[u8]) -> String {
    match kind {
        "md5" | "MD5Sum" => hex(&md5::Md5::digest(bytes)),
        "sha" | "SHA1" => hex(&sha1::Sha1::digest(bytes)),
        "sha224" => hex(&sha2::Sha224::digest(bytes)),
        "sha384" => hex(&sha2::Sha384::digest(bytes)),
        "sha512" | "SHA512" => hex(&sha2::Sha512::digest(bytes)),
        _ => hex(&sha2::Sha256::digest(bytes)),
    }
}

/// A suite with one package, and what is odd about its Release.
#[derive(Clone, Copy)]
struct Suite {
    name: &'static str,
    fields: &'static str,
    sections: &'static [&'static str],
    /// Changes the line of a list.
    edit: fn(section: &str, line: String) -> String,
}

const GOOD: Suite = Suite {
    name: "good",
    fields: "Date: Wed, 01 Oct 2025 09:00:00 UTC\n",
    sections: &["MD5Sum", "SHA256"],
    edit: |_, line| line,
};

fn deb_name(suite: &str) -> String {
    format!("pool/{suite}_1_all.deb")
}

impl Suite {
    /// The Release, with its lists below `root`.
    fn publish(self, root: &Path) -> Vec<u8> {
        let Self { name, fields, sections, edit } = self;
        let deb = package_bytes(name, 1);
        write(root, &deb_name(name), &deb);
        let list = format!(
            "Package: hands-{name}\nVersion: 1\nArchitecture: all\nMaintainer: Tests <tests@example.org>\n\
             Filename: {}\nSize: {}\nSHA256: {}\nDescription: {name}\n\n",
            deb_name(name),
            deb.len(),
            digest("SHA256", &deb)
        );
        let packed = gzip(list.as_bytes());
        write(root, &format!("dists/{name}/main/binary-amd64/Packages.gz"), &packed);
        let mut release =
            format!("Suite: {name}\nCodename: {name}\nArchitectures: amd64\nComponents: main\n{fields}");
        for section in sections {
            release += &format!("{section}:\n");
            for (file, bytes) in [("Packages", list.as_bytes()), ("Packages.gz", &packed)] {
                let line = format!("{} {} main/binary-amd64/{file}", digest(section, bytes), bytes.len());
                release += &format!(" {}\n", edit(section, line));
            }
        }
        release.into_bytes()
    }
}

fn suites_line(suites: &[Suite]) -> String {
    let names: Vec<String> = suites.iter().map(|suite| format!("{:?}", suite.name)).collect();
    format!("suites = [{}]\npoll_secs = 1", names.join(", "))
}

/// Updates, and downloads the package: both as apt does it.
fn apt_takes(scratch: &Scratch, client: &str, options: &str, url: &str, suite: &str) -> Result<(), String> {
    let apt = Apt::new(&scratch.dir(client), &[format!("deb [arch=amd64 {options}] {url} {suite} main")]);
    let steps: [&[&str]; 2] = [&["update"], &["download", &format!("hands-{suite}")]];
    for arguments in steps {
        let (status, out, err) = support::run(apt.command("apt-get").args(arguments), 10 * DEADLINE);
        if !status.success() || err.lines().any(|line| line.starts_with("E:")) {
            return Err(format!("apt-get {arguments:?}: {status}\n{out}\n{err}"));
        }
    }
    Ok(())
}

/// Releases that apt 2.6 reads.
const FORGIVEN: [Suite; 7] = [
    GOOD,
    Suite { name: "hour", fields: "Date: Wed, 01 Oct 2025 9:00:00 UTC\n", ..GOOD },
    Suite { name: "asctime", fields: "Date: Wed Oct  1 09:00:00 2025\n", ..GOOD },
    Suite { name: "zone", fields: "Date: Wed, 01 Oct 2025 09:00:00 +0200\n", ..GOOD },
    Suite { name: "empty", fields: "Date: Wed, 01 Oct 2025 09:00:00 UTC\nValid-Until: \n", ..GOOD },
    // Nothing else of what is not signed is checked.
    Suite { name: "never", fields: "Valid-Until: never\n", ..GOOD },
    Suite { name: "weak", sections: &["MD5Sum"], ..GOOD },
];

#[test]
fn a_release_that_apt_forgives_is_served() {
    let scratch = Scratch::new();
    let root = scratch.dir("mirror");
    for suite in FORGIVEN {
        write(&root, &format!("dists/{}/Release", suite.name), &suite.publish(&root));
    }
    let upstream = Upstream::start(&root);
    let lines = suites_line(&FORGIVEN);
    let config = ServerConfig::default().upstream("far", "generic-deb", &upstream.url(""), &lines).tree(
        "near",
        "generic-deb",
        &root,
        &lines,
    );
    let server = Server::start(&scratch, &config);
    let known = |status: &support::Status| {
        let snapshots = status.0["snapshots"].as_array().expect("a list").clone();
        snapshots.into_iter().filter(|snapshot| snapshot["paths"].as_u64() == Some(1)).collect::<Vec<_>>()
    };
    let status =
        server.wait_until("every package is known", |status| known(status).len() == 2 * FORGIVEN.len());
    for Suite { name, .. } in FORGIVEN {
        for (repo, url) in
            [("straight", upstream.url("")), ("far", server.url("far")), ("near", server.url("near"))]
        {
            let taken = apt_takes(&scratch, &format!("{name}-{repo}"), "trusted=yes", &url, name);
            taken.unwrap_or_else(|problem| panic!("{name} {repo}: {problem}"));
        }
    }
    for (suite, warning) in [("zone", "Date 'Wed, 01 Oct 2025 09:00:00 +0200'"), ("weak", "Packages.gz")] {
        let unit = format!("dists/{suite}");
        let of_unit = known(&status).into_iter().filter(|snapshot| snapshot["unit"] == *unit);
        for snapshot in of_unit {
            let warnings = snapshot["warnings"].to_string();
            assert!(warnings.contains(warning), "{unit}: {warnings}");
        }
    }
    // What is weak may follow what is weak.
    let later = Suite { name: "weak", fields: "Date: Wed, 01 Oct 2025 09:00:01 UTC\n", ..FORGIVEN[6] };
    write(&root, "dists/weak/Release", &later.publish(&root));
    server.wait_until("the weak one is updated", |status| {
        let weak = known(status).into_iter().filter(|unit| unit["unit"] == "dists/weak");
        weak.filter(|unit| unit["generation"] == 2).count() == 2
    });
}

/// Releases that apt 2.6 refuses, each in place of a good one.
const REFUSED: [Suite; 5] = [
    Suite {
        name: "wrong-md5",
        edit: |section, line| if section == "MD5Sum" { format!("00{}", &line[2..]) } else { line },
        ..GOOD
    },
    Suite {
        name: "cut-sha256",
        edit: |section, line| if section == "SHA256" { line[32..].to_owned() } else { line },
        ..GOOD
    },
    Suite {
        name: "capitals",
        edit: |section, line| match section {
            "SHA256" => format!("{}{}", line[..64].to_uppercase(), &line[64..]),
            _ => line,
        },
        ..GOOD
    },
    Suite { name: "until", fields: "Valid-Until: never\n", ..GOOD },
    Suite { name: "only-md5", sections: &["MD5Sum"], ..GOOD },
];

#[test]
fn a_release_that_apt_refuses_does_not_replace_a_good_one() {
    let scratch = Scratch::new();
    let root = scratch.dir("mirror");
    let signer = Signer::new(&scratch);
    let inrelease = |suite: &str| format!("dists/{suite}/InRelease");
    for Suite { name, .. } in REFUSED {
        let release = Suite { name, ..GOOD }.publish(&root);
        write(&root, &inrelease(name), &signer.clearsign(&release));
    }
    let upstream = Upstream::start(&root);
    let config =
        ServerConfig::default().upstream("far", "generic-deb", &upstream.url(""), &suites_line(&REFUSED));
    let server = Server::start(&scratch, &config);
    let all = |status: &support::Status, is_it: &dyn Fn(&serde_json::Value) -> bool| {
        let snapshots = status.0["snapshots"].as_array().expect("a list");
        snapshots.iter().filter(|snapshot| is_it(snapshot)).count() == REFUSED.len()
    };
    server.wait_until("every suite is adopted", |status| all(status, &|unit| unit["generation"] == 1));
    for suite in REFUSED {
        write(&root, &inrelease(suite.name), &signer.clearsign(&suite.publish(&root)));
    }
    server.wait_until("every suite has a problem", |status| all(status, &|unit| unit["problem"].is_string()));
    let key = format!("signed-by={}", support::test_key().display());
    for Suite { name, .. } in REFUSED {
        let straight = apt_takes(&scratch, &format!("{name}-straight"), &key, &upstream.url(""), name);
        assert!(straight.is_err(), "apt takes {name}");
        apt_takes(&scratch, &format!("{name}-far"), &key, &server.url("far"), name)
            .unwrap_or_else(|problem| panic!("{name}: {problem}"));
    }
}

#[test]
fn text_around_a_detached_signature_is_refused_where_apt_reads_it() {
    let scratch = Scratch::new();
    let root = scratch.dir("mirror");
    let signer = Signer::new(&scratch);
    let names = ["detached", "inline"];
    let suites = names.map(|name| Suite { name, ..GOOD });
    let publish = |suite: &Suite, fields, spoil: fn(Vec<u8>) -> Vec<u8>| {
        let release = Suite { fields, ..*suite }.publish(&root);
        let at = |file: &str| format!("dists/{}/{file}", suite.name);
        if suite.name == "inline" {
            write(&root, &at("InRelease"), &signer.clearsign(&release));
        }
        write(&root, &at("Release.gpg"), &spoil(signer.detached(&release)));
        write(&root, &at("Release"), &release);
    };
    suites.iter().for_each(|suite| publish(suite, GOOD.fields, |signature| signature));
    let upstream = Upstream::start(&root);
    let lines = format!("{}\nkeyring = {:?}", suites_line(&suites), support::test_key());
    let config = ServerConfig::default().upstream("far", "generic-deb", &upstream.url(""), &lines);
    let server = Server::start(&scratch, &config);
    let generation = |name: &str, number: u64| {
        server.wait_until(&format!("generation {number} of {name}"), |status| {
            let snapshots = status.0["snapshots"].as_array().expect("a list");
            let unit = format!("dists/{name}");
            snapshots.iter().any(|snapshot| snapshot["unit"] == *unit && snapshot["generation"] == number)
        });
    };
    for name in names {
        generation(name, 1);
    }
    let later = "Date: Wed, 01 Oct 2025 09:00:01 UTC\n";
    for suite in &suites {
        publish(suite, later, |signature| [&signature, &b"Comment\n"[..]].concat());
    }
    generation("inline", 2);
    server.wait_until("the other suite has a problem", |status| {
        let snapshots = status.0["snapshots"].as_array().expect("a list");
        snapshots.iter().any(|unit| unit["problem"].as_str().is_some_and(|text| text.contains("Release.gpg")))
    });
    let key = format!("signed-by={}", support::test_key().display());
    for (name, url, is_taken) in [
        ("detached", upstream.url(""), false),
        ("detached", server.url("far"), true),
        ("inline", upstream.url(""), true),
        ("inline", server.url("far"), true),
    ] {
        let taken = apt_takes(&scratch, &format!("{name}-{}", url.len()), &key, &url, name);
        assert_eq!(taken.is_ok(), is_taken, "{name} at {url}: {taken:?}");
    }
    assert_eq!(get(&server.url("far/dists/inline/Release.gpg")).status, 404, "nobody gets the bad one");
}

/// An rpm-md repository with one package, and what is odd about it.
#[derive(Clone, Copy)]
struct Rpm {
    name: &'static str,
    /// Of the lists, and of the package.
    sums: (&'static str, &'static str),
    encoding: &'static str,
    repomd: fn(String) -> String,
}

const GOOD_RPM: Rpm =
    Rpm { name: "good", sums: ("sha256", "sha256"), encoding: "UTF-8", repomd: |text| text };

impl Rpm {
    fn publish(self, root: &Path, signer: &Signer) {
        let Self { name, sums: (lists, packages), encoding, repomd } = self;
        let rpm = package_bytes(name, 1);
        let file = format!("Packages/hands-{name}-1-1.noarch.rpm");
        write(root, &format!("{name}/{file}"), &rpm);
        let (space, size) = ("http://linux.duke.edu/metadata", rpm.len());
        let sum = digest(packages, &rpm);
        let head = format!("<?xml version=\"1.0\" encoding=\"{encoding}\"?>\n");
        let version = "<version epoch=\"0\" ver=\"1\" rel=\"1\"/>";
        let primary = format!(
            "{head}<metadata xmlns=\"{space}/common\" xmlns:rpm=\"{space}/rpm\" packages=\"1\">\n\
             <package type=\"rpm\"><name>hands-{name}</name><arch>noarch</arch>{version}\
             <checksum type=\"{packages}\" pkgid=\"YES\">{sum}</checksum><summary>caf\u{e9}</summary>\
             <description>x</description><packager></packager><url></url><time file=\"1\" build=\"1\"/>\
             <size package=\"{size}\" installed=\"1\" archive=\"1\"/><location href=\"{file}\"/>\
             <format><rpm:license>MIT</rpm:license></format></package></metadata>\n"
        );
        let filelists = format!(
            "{head}<filelists xmlns=\"{space}/filelists\" packages=\"1\"><package pkgid=\"{sum}\" \
             name=\"hands-{name}\" arch=\"noarch\">{version}</package></filelists>\n"
        );
        let mut text = format!("{head}<repomd xmlns=\"{space}/repo\">\n<revision>1</revision>\n");
        for (kind, list) in [("primary", primary), ("filelists", filelists)] {
            let bytes: Vec<u8> = match encoding {
                "ISO-8859-1" => list.chars().map(|c| u8::try_from(u32::from(c)).expect("Latin-1")).collect(),
                _ => list.into_bytes(),
            };
            let packed = gzip(&bytes);
            let path = format!("repodata/{kind}.xml.gz");
            text += &format!(
                "<data type=\"{kind}\">\n<checksum type=\"{lists}\">{}</checksum>\n<open-checksum \
                 type=\"{lists}\">{}</open-checksum>\n<location href=\"{path}\"/>\n<size>{}</size>\n</data>\n",
                digest(lists, &packed),
                digest(lists, &bytes),
                packed.len()
            );
            write(root, &format!("{name}/{path}"), &packed);
        }
        let text = repomd(text + "</repomd>\n");
        write(root, &format!("{name}/repodata/repomd.xml.asc"), &signer.detached(text.as_bytes()));
        write(root, &format!("{name}/repodata/repomd.xml"), text.as_bytes());
    }
}

/// Without the lines that begin like this.
fn without(text: &str, start: &str) -> String {
    text.lines().filter(|line| !line.starts_with(start)).map(|line| format!("{line}\n")).collect()
}

/// Repositories that dnf 4 and zypper 1.14 read, with the algorithm that the package is known by.
const FORGIVEN_RPM: [(Rpm, Option<&str>); 8] = [
    (GOOD_RPM, Some("sha256")),
    (Rpm { name: "no-size", repomd: |text| without(&text, "<size>"), ..GOOD_RPM }, Some("sha256")),
    (Rpm { name: "no-sum", repomd: |text| without(&text, "<checksum"), ..GOOD_RPM }, Some("sha256")),
    (
        Rpm {
            name: "open-sum",
            repomd: |text| {
                let sum = format!("<open-checksum type=\"sha256\">{}</open-checksum>\n", "0".repeat(64));
                without(&text, "<open-checksum").replace("<location", &(sum + "<location"))
            },
            ..GOOD_RPM
        },
        Some("sha256"),
    ),
    (Rpm { name: "latin-1", encoding: "ISO-8859-1", ..GOOD_RPM }, Some("sha256")),
    (Rpm { name: "sha384", sums: ("sha384", "sha384"), ..GOOD_RPM }, Some("sha384")),
    (Rpm { name: "sha224", sums: ("sha224", "sha256"), ..GOOD_RPM }, Some("sha256")),
    (Rpm { name: "md5", sums: ("md5", "md5"), ..GOOD_RPM }, None),
];

#[test]
fn an_rpm_repository_that_clients_forgive_is_served() {
    let scratch = Scratch::new();
    let root = scratch.dir("mirror");
    let signer = Signer::new(&scratch);
    let names: Vec<&str> = FORGIVEN_RPM.iter().map(|(rpm, _)| rpm.name).collect();
    FORGIVEN_RPM.iter().for_each(|(rpm, _)| rpm.publish(&root, &signer));
    let upstream = Upstream::start(&root);
    let lines = format!("suites = {names:?}");
    let config = ServerConfig::default().upstream("far", "generic-rpm", &upstream.url(""), &lines).tree(
        "near",
        "generic-rpm",
        &root,
        &lines,
    );
    let server = Server::start(&scratch, &config);
    let snapshots = 2 * names.len();
    let status = server.wait_until("every repository is read", |status| {
        status.0["snapshots"].as_array().is_some_and(|all| all.len() == snapshots)
    });
    for (rpm, algorithm) in FORGIVEN_RPM {
        let name = rpm.name;
        let units = status.0["snapshots"].as_array().expect("a list");
        for unit in units.iter().filter(|unit| unit["unit"] == *name) {
            assert_eq!(unit["paths"], u64::from(algorithm.is_some()), "{unit}");
            let is_odd = matches!(name, "no-sum" | "md5");
            assert_eq!(unit["warnings"].as_array().is_some_and(|all| !all.is_empty()), is_odd, "{unit}");
        }
        for (repo, url) in
            [("straight", upstream.url("")), ("far", server.url("far")), ("near", server.url("near"))]
        {
            let url = format!("{}/{name}", url.trim_end_matches('/'));
            let client = scratch.path(&format!("dnf-{name}-{repo}"));
            let dnf = Dnf::new(&client, &[(name, url.clone())]);
            let listed =
                dnf.run(&["repoquery", "--refresh", "--disablerepo=*", &format!("--enablerepo={name}")]);
            assert!(listed.contains(&format!("hands-{name}")), "{name} {repo}: {listed}");
            // zypper asks whether to go on.
            if name != "no-sum" {
                let zypper =
                    Zypper::new(&scratch.path(&format!("zypper-{name}-{repo}")), &[(name, url.clone())]);
                zypper.run(&["refresh", "--force"]);
                let listed = zypper.run(&["search", "hands-"]);
                assert!(listed.contains(&format!("hands-{name}")), "{name} {repo}: {listed}");
            }
            let package = get(&format!("{url}/Packages/hands-{name}-1-1.noarch.rpm"));
            assert_eq!((package.status, package.body), (200, package_bytes(name, 1)), "{name} {repo}");
        }
        // Known by its digest, and so one that volunteers may have.
        let manifest = get(&server.url(&format!("far/{name}/Packages/hands-{name}-1-1.noarch.rpm.sha256")));
        assert_eq!(manifest.status == 200, algorithm.is_some(), "{name}: {}", manifest.status);
    }
}

/// With the checksums of lists in capitals.
fn capitals(text: String) -> String {
    let changed = |line: &str| match line.split_once('>').filter(|_| line.starts_with("<checksum")) {
        Some((tag, rest)) => {
            format!("{tag}>{}\n", rest.replace("</checksum>", "").to_uppercase() + "</checksum>")
        }
        None => format!("{line}\n"),
    };
    text.lines().map(changed).collect()
}

/// Repositories that dnf or zypper refuse, each in place of a good one.
const REFUSED_RPM: [Rpm; 4] = [
    Rpm {
        name: "type",
        repomd: |text| text.replace("open-checksum type=\"sha256\"", "open-checksum type=\"crc32\""),
        ..GOOD_RPM
    },
    Rpm { name: "capitals", repomd: capitals, ..GOOD_RPM },
    Rpm { name: "package", sums: ("sha256", "crc32"), ..GOOD_RPM },
    Rpm { name: "no-primary", repomd: |text| text.replace("primary", "secondary"), ..GOOD_RPM },
];

#[test]
fn an_rpm_repository_that_clients_refuse_does_not_replace_a_good_one() {
    let scratch = Scratch::new();
    let root = scratch.dir("mirror");
    let signer = Signer::new(&scratch);
    let names: Vec<&str> = REFUSED_RPM.iter().map(|rpm| rpm.name).collect();
    names.iter().for_each(|name| Rpm { name, ..GOOD_RPM }.publish(&root, &signer));
    let upstream = Upstream::start(&root);
    let lines = format!("suites = {names:?}\npoll_secs = 1");
    let config = ServerConfig::default().upstream("far", "generic-rpm", &upstream.url(""), &lines);
    let server = Server::start(&scratch, &config);
    let all = |status: &support::Status, is_it: &dyn Fn(&serde_json::Value) -> bool| {
        let snapshots = status.0["snapshots"].as_array().expect("a list");
        snapshots.iter().filter(|snapshot| is_it(snapshot)).count() == names.len()
    };
    server.wait_until("every repository is adopted", |status| all(status, &|unit| unit["paths"] == 1));
    REFUSED_RPM.iter().for_each(|rpm| rpm.publish(&root, &signer));
    server.wait_until("each has a problem", |status| all(status, &|unit| unit["problem"].is_string()));
    for name in &names {
        let list = |url: String, kind: &str| {
            let dnf = Dnf::new(
                &scratch.path(&format!("{name}-{kind}")),
                &[(name, format!("{}/{name}", url.trim_end_matches('/')))],
            );
            dnf.try_run(&["--setopt=*.skip_if_unavailable=0", "makecache", "--refresh"])
        };
        assert!(list(upstream.url(""), "straight").is_err(), "dnf takes {name}");
        list(server.url("far"), "far").unwrap_or_else(|problem| panic!("{name}: {problem}"));
    }
}
