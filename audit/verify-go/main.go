// Verifies a Sekisho audit export with the transparency-log packages of the Go project, which know nothing of Sekisho.
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o verify-go main.go
//	./verify-go FOLDER 'name+hash+key'
//
// (Debian: golang-go, golang-golang-x-mod-dev.) Exits with 0 only when every check holds.
package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight = 8
const tileWidth = 1 << tileHeight

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: verify-go FOLDER 'name+hash+key'")
		os.Exit(2)
	}
	summary, err := verify(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "REFUSED:", err)
		os.Exit(1)
	}
	fmt.Println("verified:", summary)
}

func verify(folder, vkey string) (string, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return "", err
	}
	data := filepath.Join(folder, "data")
	if _, err := os.Stat(filepath.Join(data, "run", "entries")); err == nil {
		return verifyRun(data, verifier)
	}
	return verifyLog(filepath.Join(data, "log"), verifier)
}

// openCheckpoint believes a C2SP tlog-checkpoint only when the verifier's key signed it and it names its log.
func openCheckpoint(msg []byte, verifier note.Verifier) (tlog.Tree, error) {
	opened, err := note.Open(msg, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, errors.New("the checkpoint is not of this log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return tlog.Tree{}, errors.New("the checkpoint's size is not a number")
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return tlog.Tree{}, err
	}
	return tlog.Tree{N: size, Hash: root}, nil
}

// storage holds every stored hash of the tree, as Go's package numbers them.
type storage []tlog.Hash

func (s storage) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if index >= int64(len(s)) {
			return nil, errors.New("a hash beyond the tree")
		}
		hashes[i] = s[index]
	}
	return hashes, nil
}

func verifyLog(log string, verifier note.Verifier) (string, error) {
	msg, err := os.ReadFile(filepath.Join(log, "checkpoint"))
	if err != nil {
		return "", err
	}
	tree, err := openCheckpoint(msg, verifier)
	if err != nil {
		return "", err
	}
	var hashes storage
	var leaves []tlog.Hash
	for n := int64(0); n*tileWidth < tree.N; n++ {
		entries, err := readBundle(log, n, width(tree.N-n*tileWidth))
		if err != nil {
			return "", err
		}
		for _, entry := range entries {
			leaf := tlog.RecordHash(entry)
			more, err := tlog.StoredHashesForRecordHash(int64(len(leaves)), leaf, hashes)
			if err != nil {
				return "", err
			}
			hashes = append(hashes, more...)
			leaves = append(leaves, leaf)
		}
	}
	root, err := tlog.TreeHash(tree.N, hashes)
	if err != nil {
		return "", err
	}
	if root != tree.Hash {
		return "", errors.New("the entries do not lead to the signed root")
	}
	tiles, err := checkTiles(log, tree.N, hashes)
	if err != nil {
		return "", err
	}
	// Each entry once more, the way a client without the whole log would: through the tiles alone.
	reader := tlog.TileHashReader(tree, &tileFolder{log: log, seen: map[string][]byte{}})
	for index, leaf := range leaves {
		proof, err := tlog.ProveRecord(tree.N, int64(index), reader)
		if err != nil {
			return "", fmt.Errorf("entry %d: %w", index, err)
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, int64(index), leaf); err != nil {
			return "", fmt.Errorf("entry %d: %w", index, err)
		}
	}
	earlier, err := checkEarlier(log, tree, hashes, verifier)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d entries, %d tiles, %d checkpoints of %s, root %s",
		tree.N, tiles, earlier, verifier.Name(), tree.Hash), nil
}

func width(rest int64) int {
	if rest > tileWidth {
		return tileWidth
	}
	return int(rest)
}

// readBundle reads the entries of a C2SP entry bundle: each after its length in two bytes.
func readBundle(log string, n int64, count int) ([][]byte, error) {
	path := localPath(tlog.Tile{H: tileHeight, L: -1, N: n, W: count})
	data, err := os.ReadFile(filepath.Join(log, path))
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(data) > 0 {
		if len(data) < 2 {
			return nil, fmt.Errorf("%s is cut", path)
		}
		length := int(data[0])<<8 | int(data[1])
		if len(data) < 2+length {
			return nil, fmt.Errorf("%s is cut", path)
		}
		entries = append(entries, data[2:2+length])
		data = data[2+length:]
	}
	if len(entries) != count {
		return nil, fmt.Errorf("%s has %d entries instead of %d", path, len(entries), count)
	}
	return entries, nil
}

// localPath is Go's path of a tile in C2SP's words: no height, and "entries" for "data".
func localPath(tile tlog.Tile) string {
	path := strings.TrimPrefix(tile.Path(), "tile/8/")
	if tile.L == -1 {
		path = "entries/" + strings.TrimPrefix(path, "data/")
	}
	return "tile/" + path
}

func checkTiles(log string, size int64, hashes storage) (int, error) {
	checked := 0
	for level := 0; size>>(tileHeight*level) > 0; level++ {
		count := size >> (tileHeight * level)
		for n := int64(0); n*tileWidth < count; n++ {
			tile := tlog.Tile{H: tileHeight, L: level, N: n, W: width(count - n*tileWidth)}
			want, err := tlog.ReadTileData(tile, hashes)
			if err != nil {
				return 0, err
			}
			got, err := os.ReadFile(filepath.Join(log, localPath(tile)))
			if err != nil {
				return 0, err
			}
			if !bytes.Equal(got, want) {
				return 0, fmt.Errorf("%s does not fit the entries", localPath(tile))
			}
			checked++
		}
	}
	return checked, nil
}

func checkEarlier(log string, tree tlog.Tree, hashes storage, verifier note.Verifier) (int, error) {
	files, err := os.ReadDir(filepath.Join(log, "checkpoints"))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		msg, err := os.ReadFile(filepath.Join(log, "checkpoints", file.Name()))
		if err != nil {
			return 0, err
		}
		old, err := openCheckpoint(msg, verifier)
		if err != nil {
			return 0, fmt.Errorf("checkpoint %s: %w", file.Name(), err)
		}
		if strconv.FormatInt(old.N, 10) != file.Name() {
			return 0, fmt.Errorf("checkpoint %s states size %d", file.Name(), old.N)
		}
		proof, err := tlog.ProveTree(tree.N, old.N, hashes)
		if err != nil {
			return 0, fmt.Errorf("checkpoint %s: %w", file.Name(), err)
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash); err != nil {
			return 0, fmt.Errorf("checkpoint %s: %w", file.Name(), err)
		}
	}
	return len(files), nil
}

// tileFolder gives Go's tile client the files of the export.
type tileFolder struct {
	log  string
	seen map[string][]byte
}

func (t *tileFolder) Height() int                         { return tileHeight }
func (t *tileFolder) SaveTiles(_ []tlog.Tile, _ [][]byte) {}
func (t *tileFolder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		path := localPath(tile)
		if _, ok := t.seen[path]; !ok {
			data, err := os.ReadFile(filepath.Join(t.log, path))
			if err != nil {
				return nil, err
			}
			t.seen[path] = data
		}
		all = append(all, t.seen[path])
	}
	return all, nil
}

func verifyRun(data string, verifier note.Verifier) (string, error) {
	files, err := os.ReadDir(filepath.Join(data, "run", "entries"))
	if err != nil {
		return "", err
	}
	var tree tlog.Tree
	for number, file := range files {
		leaf, err := os.ReadFile(filepath.Join(data, "run", "entries", file.Name()))
		if err != nil {
			return "", err
		}
		text, err := os.ReadFile(filepath.Join(data, "run", "proofs", file.Name()+".tlog-proof"))
		if err != nil {
			return "", err
		}
		index, proof, head, err := parseProof(text, verifier)
		if err != nil {
			return "", fmt.Errorf("entry %s: %w", file.Name(), err)
		}
		if strconv.FormatInt(index, 10) != file.Name() || number > 0 && head != tree {
			return "", fmt.Errorf("entry %s: the proof is of another entry or head", file.Name())
		}
		tree = head
		if err := tlog.CheckRecord(proof, head.N, head.Hash, index, tlog.RecordHash(leaf)); err != nil {
			return "", fmt.Errorf("entry %s: %w", file.Name(), err)
		}
	}
	return fmt.Sprintf("%d entries of one era in the log %s of %d entries", len(files), verifier.Name(), tree.N), nil
}

// parseProof reads a C2SP tlog-proof.
func parseProof(text []byte, verifier note.Verifier) (int64, tlog.RecordProof, tlog.Tree, error) {
	malformed := errors.New("the proof is not well formed")
	head, msg, found := bytes.Cut(text, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(lines[1], "index ") {
		return 0, nil, tlog.Tree{}, malformed
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil {
		return 0, nil, tlog.Tree{}, malformed
	}
	var proof tlog.RecordProof
	for _, line := range lines[2:] {
		raw, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(raw) != tlog.HashSize {
			return 0, nil, tlog.Tree{}, malformed
		}
		var hash tlog.Hash
		copy(hash[:], raw)
		proof = append(proof, hash)
	}
	tree, err := openCheckpoint(msg, verifier)
	return index, proof, tree, err
}
