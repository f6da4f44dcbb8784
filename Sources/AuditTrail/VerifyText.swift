extension AuditExport {
    /// What an export says about itself: `audit/VERIFY.md`, word for word (a test compares them).
    static let verifyText = #"""
        # How to verify this export

        This folder is a BagIt bag (RFC 8493) with files of a transparency log. You need no gateway and no account; you can use
        programs that the makers of Sekisho did not write.

        **Start from the key you trust.** `data/trail.vkey` is one line, `name+hash+key`. Compare it with the line that the
        institution published or handed to you before. Whoever changes a log can also change the key beside it; nobody can make
        a log that fits the key you already have.

        ## With Sekisho

            sekisho audit open FILE.age --key AUDITOR_KEY_FILE --out FOLDER
            sekisho audit verify FOLDER --trail 'name+hash+key'
            sekisho audit verify FOLDER --trail 'name+hash+key' --key AUDITOR_KEY_FILE
            sekisho audit search FOLDER --trail 'name+hash+key' --key AUDITOR_KEY_FILE --what run.decided
            sekisho audit report FOLDER --trail 'name+hash+key' --key AUDITOR_KEY_FILE --out DOCUMENTS
            sekisho audit verify FOLDER --trust TRUST_FILE --key AUDITOR_KEY_FILE

        The first unpacks a sealed export. The second checks that nothing was changed, removed, added or reordered below the
        signed head. The third also opens each record that was written for your key, checks that the records of each run follow
        each other without a gap and are as many as the run's last record states, holds the policy files to the hashes that the
        decisions name, and makes every document again and compares it byte for byte. All exit with 0 only when everything holds;
        otherwise they name the entry or file.

        The last also asks that witnesses have seen the log. Your trust file (C2SP tlog-policy) has lines `log KEY`,
        `witness NAME KEY`, `group NAME NUMBER|any|all NAME…` and `quorum NAME`: the head must have the cosignatures that the
        quorum asks for, and no entry may be dated otherwise than the witnesses saw. The answer tells between which of their
        sights each run was written.

        ## With other programs

        - A sealed export: `age -d -i IDENTITY FILE.age | tar x`; `sekisho audit identity AUDITOR_KEY_FILE --out IDENTITY` writes
          your key in age's form.
        - The files: `bagit.py --validate FOLDER`, or `sha512sum -c manifest-sha512.txt`.
        - The log: Go's own checksum-database packages, with `audit/verify-go/main.go`:

              GO111MODULE=off GOPATH=/usr/share/gocode go build -o verify-go main.go
              ./verify-go FOLDER 'name+hash+key'
              ./verify-go -witness 'name+hash+key' FOLDER 'name+hash+key'

        ## What lies where

        - `data/scope.json`: what the export is of, how many entries it holds, and under which head.
        - `data/log/checkpoint`: the signed head (C2SP signed note). `data/log/checkpoints/N`: earlier heads.
        - `data/log/tile/…`: the tree's hashes. `data/log/tile/entries/…`: the entries (C2SP tlog-tiles). An export of a period
          has all hashes, and the entries of that period.
        - `data/slice/entries/N` and `data/slice/proofs/N.tlog-proof`: in an export of a run, a data set or a person, the chosen
          entries and their proofs (C2SP tlog-proof).
        - `data/trail.periods`, once the log has changed its key: notes signed by the old key and the next. Your key is the first.
        - `data/keys/E.json`: the key of era E, wrapped to each reader.
        - `data/policies/HASH/`: the policy files that decided, byte for byte. HASH is the SHA-256 of their manifest.
        - `data/documents/`, only in a sealed export: `records-N.csv`, `audit-events-N.fhir.json` (HL7 FHIR R4, IHE BALP),
          `report.en.html`, `report.ja.html` and, for a run, `ro-crate-metadata.json`. They are made from the entries; the
          entries are what is proved.

        An entry is a clear header of 106 bytes and a sealed record. The header is: version (1 byte), kind (1: record, 2: era
        opened, 3: era closed, 4: the trail itself), era (8), milliseconds since 1970 (8), commitment to the era's key (32),
        commitment to the record (32), nonce (24); numbers are big endian. The record is sealed with XChaCha20-Poly1305 under
        HKDF-SHA256 of the era's key (info `sekisho trail record v1` and a zero byte), with the header and the log's name as
        associated data; inside are its length (4 bytes), RFC 8785 JSON, and zeros.

        """#
}
