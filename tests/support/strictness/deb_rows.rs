//! Rows: dates, signatures and forms of Release files, entries of Packages.

use super::deb::{Deb, Roots, usual_roots};
use super::{Row, Trust};

pub fn rows() -> Vec<Row> {
    [dates(), valid_untils(), packages(), roots(), signatures(), texts()].into_iter().flatten().collect()
}

/// Forms of `Date`: a name, the defect and the value.
const DATES: &[(&str, &str, &str)] = &[
    ("date-hour", "Date: hour of one digit", "Wed, 01 Oct 2025 9:00:00 UTC"),
    ("date-day", "Date: day of one digit", "Wed, 1 Oct 2025 09:00:00 UTC"),
    ("date-asctime", "Date: as asctime writes it", "Wed Oct  1 09:00:00 2025"),
    ("date-rfc850", "Date: as RFC 850 has it", "Wednesday, 01-Oct-25 09:00:00 GMT"),
    ("date-iso", "Date: ISO 8601", "2025-10-01T09:00:00Z"),
    ("date-zone", "Date: zone +0100", "Wed, 01 Oct 2025 09:00:00 +0100"),
    ("date-zero", "Date: zone +0000", "Wed, 01 Oct 2025 09:00:00 +0000"),
    ("date-z", "Date: zone Z", "Wed, 01 Oct 2025 09:00:00 Z"),
    ("date-cest", "Date: zone CEST", "Wed, 01 Oct 2025 09:00:00 CEST"),
    ("date-no-zone", "Date: no zone", "Wed, 01 Oct 2025 09:00:00"),
    ("date-no-weekday", "Date: no weekday", "01 Oct 2025 09:00:00 UTC"),
    ("date-weekday", "Date: another weekday", "Mon, 01 Oct 2025 09:00:00 UTC"),
    ("date-long-month", "Date: month in full", "Wed, 01 October 2025 09:00:00 UTC"),
    ("date-german", "Date: month in German", "Mi, 01 Okt 2025 09:00:00 UTC"),
    ("date-no-seconds", "Date: no seconds", "Wed, 01 Oct 2025 09:00 UTC"),
    ("date-unix", "Date: seconds since 1970", "1759309200"),
    ("date-empty", "Date: empty", ""),
    ("date-garbage", "Date: no date", "yesterday"),
    ("date-future", "Date: in 2099", "Thu, 01 Oct 2099 09:00:00 UTC"),
    ("date-before-1970", "Date: in 1960", "Sat, 01 Oct 1960 09:00:00 UTC"),
];

fn dates() -> Vec<Row> {
    let row = |&(name, defect, value): &(&'static str, &'static str, &'static str)| {
        Row::deb(name, defect, move |deb| deb.set("Date", Some(value)))
    };
    let mut rows: Vec<Row> = DATES.iter().map(row).collect();
    rows.push(Row::deb("date-missing", "no Date", |deb| deb.set("Date", None)));
    rows
}

/// Forms of `Valid-Until`.
const UNTILS: &[(&str, &str, &str)] = &[
    ("until-good", "Valid-Until: good", "Thu, 01 Oct 2099 09:00:00 UTC"),
    ("until-hour", "Valid-Until: hour of one digit", "Thu, 01 Oct 2099 9:00:00 UTC"),
    ("until-zone", "Valid-Until: zone +0100", "Thu, 01 Oct 2099 09:00:00 +0100"),
    ("until-jst", "Valid-Until: zone JST", "Thu, 01 Oct 2099 09:00:00 JST"),
    ("until-asctime", "Valid-Until: as asctime writes it", "Thu Oct  1 09:00:00 2099"),
    ("until-iso", "Valid-Until: ISO 8601", "2099-10-01T09:00:00Z"),
    ("until-empty", "Valid-Until: empty", ""),
    ("until-garbage", "Valid-Until: no date", "tomorrow"),
    ("until-past", "Valid-Until: past", "Wed, 01 Oct 2025 11:00:00 UTC"),
    ("until-past-hour", "Valid-Until: past, hour of one digit", "Thu, 02 Oct 2025 9:00:00 UTC"),
];

fn valid_untils() -> Vec<Row> {
    let mut rows = Vec::new();
    for &(name, defect, value) in UNTILS {
        let spoil = move |deb: &mut Deb| deb.set("Valid-Until", Some(value));
        rows.push(Row::deb(name, defect, spoil));
        let unchecked = Row::deb(format!("{name}-unchecked"), format!("{defect}; not checked"), spoil);
        rows.push(unchecked.option("check-valid-until=no").serve("check_valid_until = false"));
    }
    rows
}

/// Another package's stanza, which no client asks for.
const OTHER: &str = "Package: hands-other\nVersion: 1\nArchitecture: all\nMaintainer: Tests <tests@example.org>\n\
     Filename: pool/hands-other_1_all.deb\nSize: 9\nSHA256: \
     0000000000000000000000000000000000000000000000000000000000000000\nDescription: other\n\n";

/// Takes a field of a stanza away.
fn lacking(stanza: &str, field: &str) -> String {
    let is_it = |line: &&str| line.split(':').next() != Some(field);
    stanza.split('\n').filter(is_it).collect::<Vec<_>>().join("\n")
}

/// Replaces the value of a field.
fn with(stanza: &str, field: &str, value: &str) -> String {
    let line = |line: &str| {
        if line.split(':').next() == Some(field) { format!("{field}: {value}") } else { line.to_owned() }
    };
    stanza.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

fn packages() -> Vec<Row> {
    let mut rows = Vec::new();
    for field in ["Filename", "Size", "SHA256", "Version", "Architecture", "Package"] {
        let name = field.to_lowercase();
        let defect = format!("Packages: an entry without {field}");
        rows.push(Row::deb(format!("other-without-{name}"), defect, move |deb| {
            deb.edit_packages(|own| lacking(OTHER, field) + own);
        }));
    }
    for (field, value) in [
        ("Filename", "../../etc/passwd"),
        ("Filename", "/srv/hands.deb"),
        ("Filename", "http://127.0.0.1/x.deb"),
        ("Size", "big"),
        ("Size", "-1"),
        ("Size", "99999999999999999999999"),
        ("SHA256", "0000"),
        ("SHA256", "no digest"),
    ] {
        let slug: String = value.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        let name = format!("other-{}-{slug}", field.to_lowercase());
        rows.push(Row::deb(name, format!("Packages: an entry with `{field}: {value}`"), move |deb| {
            deb.edit_packages(|own| with(OTHER, field, value) + own);
        }));
    }
    rows.extend(own_entries());
    rows.extend(forms_of_packages());
    rows
}

/// The entry of the package that the client downloads.
fn own_entries() -> Vec<Row> {
    vec![
        Row::deb("own-md5-only", "Packages: the entry has only MD5sum", |deb| {
            deb.edit_packages(|own| lacking(own, "SHA256"));
        })
        .package(),
        Row::deb("own-no-digest", "Packages: the entry has no digest", |deb| {
            deb.edit_packages(|own| lacking(&lacking(own, "SHA256"), "MD5sum"));
        })
        .package(),
        Row::deb("own-no-digest-trusted", "Packages: the entry has no digest, trusted=yes", |deb| {
            deb.edit_packages(|own| lacking(&lacking(own, "SHA256"), "MD5sum"));
        })
        .trust(Trust::Blind)
        .package(),
        Row::deb("own-no-size", "Packages: the entry has no Size", |deb| {
            deb.edit_packages(|own| lacking(own, "Size"));
        })
        .package(),
        Row::deb("own-wrong-size", "Packages: the entry has a wrong Size", |deb| {
            deb.edit_packages(|own| with(own, "Size", "1999"));
        })
        .package(),
        Row::deb("own-wrong-sha256", "Packages: the entry has a wrong SHA256", |deb| {
            deb.edit_packages(|own| with(own, "SHA256", &"0".repeat(64)));
        })
        .package(),
        Row::deb("own-cut-sha256", "Packages: the entry has a cut SHA256 and a good MD5sum", |deb| {
            deb.edit_packages(|own| with(own, "SHA256", "0123456789abcdef"));
        })
        .package(),
        Row::deb("own-wrong-md5", "Packages: the entry has a wrong MD5sum and a good SHA256", |deb| {
            deb.edit_packages(|own| with(own, "MD5sum", &"0".repeat(32)));
        })
        .package(),
        Row::deb("own-dot", "Packages: Filename begins with ./", |deb| {
            deb.edit_packages(|own| own.replace("Filename: ", "Filename: ./"));
        }),
        Row::deb("own-slash", "Packages: Filename with //", |deb| {
            deb.edit_packages(|own| own.replace("pool/", "pool//"));
        }),
        Row::deb("own-backslash", "Packages: Filename with a backslash", |deb| {
            deb.rename_in_pool("pool/hands", r"pool/back\hands");
        }),
        Row::deb("own-twice", "Packages: the entry is there twice", |deb| {
            deb.edit_packages(|own| own.repeat(2));
        }),
    ]
}

/// Forms of the text of Packages.
fn forms_of_packages() -> Vec<Row> {
    vec![
        Row::deb("packages-crlf", "Packages: CRLF", |deb| {
            deb.edit_packages(|own| own.replace('\n', "\r\n"));
        }),
        Row::deb("packages-garbage", "Packages: a line of another form between entries", |deb| {
            deb.edit_packages(|own| format!("{OTHER}what is this\n\n{own}"));
        }),
        Row::deb("packages-garbage-within", "Packages: a line of another form within another entry", |deb| {
            deb.edit_packages(|own| OTHER.replace("Version:", "what is this\nVersion:") + own);
        }),
        Row::deb(
            "packages-garbage-before",
            "Packages: a line of another form above Package of another entry",
            |deb| {
                deb.edit_packages(|own| "what is this\n".to_owned() + OTHER + own);
            },
        ),
        Row::deb("packages-no-value", "Packages: an entry whose Package is empty", |deb| {
            deb.edit_packages(|own| with(OTHER, "Package", "") + own);
        }),
        Row::deb("packages-lower-case", "Packages: names of fields in lower case", |deb| {
            deb.edit_packages(|own| own.replace("Filename", "filename").replace("Size", "size"));
        }),
        Row::deb("packages-latin-1", "Packages: bytes that are not UTF-8", |deb| {
            let mut text = deb.packages.replace("Tests <", "T\u{fffd}sts <").into_bytes();
            let at = text.windows(3).position(|w| w == "\u{fffd}".as_bytes()).expect("just written");
            text.splice(at..at + 3, [0xe9]);
            let path = deb.path_of_list();
            deb.add(path, &text);
        }),
    ]
}

/// Which of InRelease, Release and Release.gpg there are.
fn roots() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, defect, kept) in [
        ("roots-detached", "no InRelease", &["Release", "Release.gpg"][..]),
        ("roots-release", "Release alone, with a key", &["Release"]),
        ("roots-signature", "Release.gpg alone", &["Release.gpg"]),
        ("roots-none", "no Release file, with a key", &[]),
    ] {
        rows.push(Row::deb(name, defect, move |deb| {
            deb.roots = usual_roots;
            deb.keep = Some(kept);
        }));
    }
    rows.extend([
        Row::deb("roots-all", "InRelease, Release and Release.gpg", |deb| deb.roots = usual_roots),
        Row::deb("roots-release-trusted", "Release alone, trusted=yes", |_| {}).trust(Trust::Blind),
        Row::deb("roots-none-trusted", "no Release file, trusted=yes", |deb| deb.keep = Some(&[]))
            .trust(Trust::Blind),
        Row::flat("flat-none-trusted", "flat: no Release file, trusted=yes", |deb| deb.keep = Some(&[]))
            .trust(Trust::Blind),
        Row::flat("flat-release-trusted", "flat: Release alone, trusted=yes", |_| {}).trust(Trust::Blind),
        Row::deb("roots-other-detached", "Release is older than InRelease", |deb| {
            deb.roots = |kit, release| {
                let old = release.replace("2025 10:", "2025 08:");
                let [_, signature, release] = <[_; 3]>::try_from(usual_roots(kit, &old)).expect("three");
                vec![("InRelease", kit.signer.clearsign(release.1.as_slice())), signature, release]
            };
        }),
    ]);
    rows
}

/// Text around a signature.
const COMMENT: &[u8] = b"# signed by the tests\n";

fn signatures() -> Vec<Row> {
    let mut rows = vec![
        Row::deb("signed-stranger", "signed by an unknown key", |deb| {
            deb.roots = |kit, release| super::deb::roots_of(&kit.stranger, release);
        }),
        Row::deb("signed-expired", "signed by a key that has expired", |_| {}).trust(Trust::ExpiredKey),
        Row::deb("signed-tampered", "changed after it was signed", |deb| {
            deb.roots = |kit, release| {
                let signed = usual_roots(kit, release).into_iter();
                let change = |(name, bytes): (_, Vec<u8>)| {
                    let text = String::from_utf8(bytes).expect("text");
                    (name, text.replace("Origin: Tests", "Origin: Other").into_bytes())
                };
                signed.map(change).collect()
            };
        }),
        Row::deb("inrelease-bad-detached-good", "InRelease by an unknown key, Release.gpg good", |deb| {
            deb.roots = |kit, release| {
                let mut roots = usual_roots(kit, release);
                roots[0].1 = kit.stranger.clearsign(release.as_bytes());
                roots
            };
        }),
        Row::deb("inrelease-good-detached-bad", "InRelease good, Release.gpg by an unknown key", |deb| {
            deb.roots = |kit, release| {
                let mut roots = usual_roots(kit, release);
                roots[1].1 = kit.stranger.detached(release.as_bytes());
                roots
            };
        }),
    ];
    rows.extend(inline_signatures());
    rows.extend(detached_signatures());
    rows
}

/// The text and the signature of a clearsigned file.
fn split_signature(signed: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mark = b"-----BEGIN PGP SIGNATURE-----";
    let at = signed.windows(mark.len()).position(|window| window == mark).expect("gpg signed it");
    (signed[..at].to_vec(), signed[at..].to_vec())
}

fn inline_signatures() -> Vec<Row> {
    vec![
        Row::deb("inrelease-text-before", "InRelease: text before the signed message", |deb| {
            deb.roots =
                |kit, text| vec![("InRelease", [COMMENT, &kit.signer.clearsign(text.as_bytes())].concat())];
        }),
        Row::deb("inrelease-text-after", "InRelease: text after the signature", |deb| {
            deb.roots =
                |kit, text| vec![("InRelease", [&kit.signer.clearsign(text.as_bytes()), COMMENT].concat())];
        }),
        Row::deb("inrelease-blank-before", "InRelease: an empty line before the signed message", |deb| {
            deb.roots =
                |kit, text| vec![("InRelease", [b"\n", &*kit.signer.clearsign(text.as_bytes())].concat())];
        }),
        Row::deb(
            "inrelease-blanks-after-armor",
            "InRelease: blanks after the signature's first line",
            |deb| {
                deb.roots = |kit, text| {
                    armored(kit, text, |text| text.replacen("SIGNATURE-----\n", "SIGNATURE----- \t\n", 1))
                };
            },
        ),
        Row::deb("inrelease-no-gap", "InRelease: no empty line below the signature's first line", |deb| {
            deb.roots = |kit, text| {
                armored(kit, text, |text| text.replacen("SIGNATURE-----\n\n", "SIGNATURE-----\n", 1))
            };
        }),
        Row::deb("inrelease-line-after", "InRelease: an empty line after the signature", |deb| {
            deb.roots =
                |kit, text| vec![("InRelease", [&*kit.signer.clearsign(text.as_bytes()), b"\n"].concat())];
        }),
        Row::deb("inrelease-blank-after", "InRelease: empty lines after the signature", |deb| {
            deb.roots =
                |kit, text| vec![("InRelease", [&*kit.signer.clearsign(text.as_bytes()), b"\n\n"].concat())];
        }),
        Row::deb("inrelease-two-blocks", "InRelease: two signature blocks, the good one first", |deb| {
            deb.roots = |kit, text| {
                let (message, good) = split_signature(&kit.signer.clearsign(text.as_bytes()));
                let (_, other) = split_signature(&kit.stranger.clearsign(text.as_bytes()));
                vec![("InRelease", [message, good, other].concat())]
            };
        }),
        Row::deb("inrelease-two-blocks-last", "InRelease: two signature blocks, the good one last", |deb| {
            deb.roots = |kit, text| {
                let (message, good) = split_signature(&kit.signer.clearsign(text.as_bytes()));
                let (_, other) = split_signature(&kit.stranger.clearsign(text.as_bytes()));
                vec![("InRelease", [message, other, good].concat())]
            };
        }),
        Row::deb("inrelease-two-messages", "InRelease: two signed messages", |deb| {
            deb.roots = |kit, text| vec![("InRelease", kit.signer.clearsign(text.as_bytes()).repeat(2))];
        }),
        Row::deb("inrelease-plain", "InRelease without a signature", |deb| {
            deb.roots = |_, text| vec![("InRelease", text.as_bytes().to_vec())];
        }),
        Row::deb("inrelease-crlf", "InRelease: CRLF after it was signed", |deb| {
            deb.roots = |kit, text| {
                let signed = String::from_utf8(kit.signer.clearsign(text.as_bytes())).expect("text");
                vec![("InRelease", signed.replace('\n', "\r\n").into_bytes())]
            };
        }),
        Row::deb("inrelease-empty", "InRelease: empty", |deb| {
            deb.roots = |_, _| vec![("InRelease", Vec::new())];
        }),
        Row::deb("inrelease-html", "InRelease: an HTML page", |deb| {
            deb.roots = |_, _| vec![("InRelease", b"<html><body>Please log in.</body></html>\n".to_vec())];
        }),
    ]
}

/// An InRelease whose signature is written in another form.
fn armored(kit: &super::Kit, text: &str, change: fn(String) -> String) -> Roots {
    let signed = String::from_utf8(kit.signer.clearsign(text.as_bytes())).expect("text");
    let at = signed.find("-----BEGIN PGP SIGNATURE-----").expect("gpg signed it");
    let (message, signature) = signed.split_at(at);
    vec![("InRelease", (message.to_owned() + &change(signature.to_owned())).into_bytes())]
}

fn detached_signatures() -> Vec<Row> {
    vec![
        Row::deb("detached-text-before", "Release.gpg: text before the signature, no InRelease", |deb| {
            deb.roots = |kit, text| detached(text, [COMMENT, &good(kit, text)].concat());
        }),
        Row::deb("detached-text-after", "Release.gpg: text after the signature, no InRelease", |deb| {
            deb.roots = |kit, text| detached(text, [&good(kit, text), COMMENT].concat());
        }),
        Row::deb("detached-blank", "Release.gpg: empty lines around the signature, no InRelease", |deb| {
            deb.roots = |kit, text| detached(text, [b"\n", &*good(kit, text), b"\n"].concat());
        }),
        Row::deb("detached-two-blocks", "Release.gpg: two blocks, the good one first, no InRelease", |deb| {
            deb.roots = |kit, text| detached(text, [good(kit, text), other(kit, text)].concat());
        }),
        Row::deb(
            "detached-two-blocks-last",
            "Release.gpg: two blocks, the good one last, no InRelease",
            |deb| {
                deb.roots = |kit, text| detached(text, [other(kit, text), good(kit, text)].concat());
            },
        ),
        Row::deb("detached-text-between", "Release.gpg: text between two blocks, no InRelease", |deb| {
            deb.roots = |kit, text| detached(text, [&good(kit, text), COMMENT, &other(kit, text)].concat());
        }),
        Row::deb("detached-of-other", "Release.gpg: of another text, no InRelease", |deb| {
            deb.roots = |kit, text| detached(text, kit.signer.detached(b"Origin: Other\n"));
        }),
        Row::deb("detached-empty", "Release.gpg: empty, no InRelease", |deb| {
            deb.roots = |_, text| detached(text, Vec::new());
        }),
    ]
}

fn good(kit: &super::Kit, text: &str) -> Vec<u8> {
    kit.signer.detached(text.as_bytes())
}

fn other(kit: &super::Kit, text: &str) -> Vec<u8> {
    kit.stranger.detached(text.as_bytes())
}

fn detached(release: &str, signature: Vec<u8>) -> Roots {
    vec![("Release", release.as_bytes().to_vec()), ("Release.gpg", signature)]
}

/// Forms of the Release file's text.
fn texts() -> Vec<Row> {
    vec![
        Row::deb("release-crlf", "Release: CRLF", |deb| deb.text = |text| text.replace('\n', "\r\n")),
        Row::deb("release-unknown-fields", "Release: fields that nobody knows", |deb| {
            deb.set("X-Hands", Some("a\n b\n ."));
            deb.set("Snapshots", Some("https://example.org/@SNAPSHOTID@/"));
        }),
        Row::deb("release-field-twice", "Release: a field twice", |deb| {
            deb.text = |text| text.replace("Label: Tests\n", "Label: Tests\nLabel: Others\n");
        }),
        Row::deb("release-lists-twice", "Release: a list of digests twice", |deb| {
            let again = deb.sections.clone();
            deb.sections.extend(again);
        }),
        Row::deb("release-lower-case", "Release: names of fields in lower case", |deb| {
            deb.text = |text| text.replace("SHA256:", "sha256:").replace("Date:", "date:");
        }),
        Row::deb("release-garbage", "Release: a line of another form", |deb| {
            deb.text = |text| text.replace("Label: Tests\n", "Label: Tests\nwhat is this\n");
        }),
        Row::deb("release-comment", "Release: a comment", |deb| {
            deb.text = |text| text.replace("Label: Tests\n", "Label: Tests\n# comment\n");
        }),
        Row::deb("release-two-stanzas", "Release: an empty line in the middle", |deb| {
            deb.text = |text| text.replace("SHA256:\n", "\nSHA256:\n");
        }),
        Row::deb("release-leading-blank", "Release: an empty line first", |deb| {
            deb.text = |text| format!("\n{text}");
        }),
        Row::deb("release-tabs", "Release: tabs between digest, size and name", |deb| {
            deb.text = |text| {
                let (head, lists) = text.split_once("MD5Sum:").expect("it has one");
                let lines: Vec<String> = lists.lines().map(|line| line.replacen(' ', "\t", 3)).collect();
                format!("{head}MD5Sum:{}\n", lines.join("\n").replace("\n\t", "\n "))
            };
        }),
        Row::deb("release-no-end", "Release: no line end at its end", |deb| {
            deb.text = |text| text.trim_end().to_owned();
        }),
        Row::deb("release-latin-1", "Release: bytes that are not UTF-8", |deb| {
            deb.roots = |kit, text| {
                let mut bytes = text.as_bytes().to_vec();
                let at = text.find("Tests").expect("its origin");
                bytes[at] = 0xe9;
                vec![("InRelease", kit.signer.clearsign(&bytes))]
            };
        }),
        Row::deb("release-moved", "Codename is not what the client asked for", |deb| {
            deb.set("Suite", Some("oldstable"));
            deb.set("Codename", Some("other"));
        }),
        Row::deb("release-not-automatic", "NotAutomatic and ButAutomaticUpgrades: yes", |deb| {
            deb.set("NotAutomatic", Some("yes"));
            deb.set("ButAutomaticUpgrades", Some("yes"));
        }),
        Row::deb("release-no-all", "No-Support-for-Architecture-all: Packages", |deb| {
            deb.set("Architectures", Some("amd64 arm64 all"));
            deb.set("No-Support-for-Architecture-all", Some("Packages"));
        }),
    ]
}
