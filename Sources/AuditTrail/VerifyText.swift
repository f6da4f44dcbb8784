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

            sekisho audit verify FOLDER --trail 'name+hash+key'
            sekisho audit verify FOLDER --trail 'name+hash+key' --key AUDITOR_KEY_FILE

        The first checks that nothing was changed, removed, added or reordered below the signed head. The second also opens
        each record that was written for your key and checks that the records of each run follow each other without a gap and
        are as many as the run's last record states. Both exit with 0 only when everything holds.

        ## With other programs

        - The files: `bagit.py --validate FOLDER`, or `sha512sum -c manifest-sha512.txt`.
        - The log: Go's own checksum-database packages, with `audit/verify-go/main.go`:

              GO111MODULE=off GOPATH=/usr/share/gocode go build -o verify-go main.go
              ./verify-go FOLDER 'name+hash+key'

        ## What lies where

        - `data/log/checkpoint`: the signed head (C2SP signed note). `data/log/checkpoints/N`: earlier heads.
        - `data/log/tile/…`: the tree's hashes. `data/log/tile/entries/…`: the entries (C2SP tlog-tiles).
        - `data/run/entries/N` and `data/run/proofs/N.tlog-proof`: in an export of one run, its entries and their proofs.
        - `data/keys/E.json`: the key of era E, wrapped to each reader.

        An entry is a clear header of 106 bytes and a sealed record. The header is: version (1 byte), kind (1: record, 2: era
        opened, 3: era closed, 4: the trail itself), era (8), milliseconds since 1970 (8), commitment to the era's key (32),
        commitment to the record (32), nonce (24); numbers are big endian. The record is sealed with XChaCha20-Poly1305 under
        HKDF-SHA256 of the era's key (info `sekisho trail record v1` and a zero byte), with the header and the log's name as
        associated data; inside are its length (4 bytes), RFC 8785 JSON, and zeros.

        """#
}
