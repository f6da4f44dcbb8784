// Verifies a Sekisho audit export with the transparency-log packages of the Go project, which know nothing of Sekisho.
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o verify-go main.go
//	./verify-go FOLDER 'name+hash+key'
//	./verify-go -each-byte FOLDER 'name+hash+key'
//
// The second flips one bit in every byte of the log's files in turn, in memory, and fails when one of them still
// verifies. (Debian: golang-go, golang-golang-x-mod-dev.) Exits with 0 only when every check holds.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
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

// readFile is os.ReadFile, but for the one file that eachByte has changed.
var readFile = os.ReadFile

func main() {
	arguments := os.Args[1:]
	check := verify
	if len(arguments) > 0 && arguments[0] == "-each-byte" {
		arguments = arguments[1:]
		check = eachByte
	}
	if len(arguments) != 2 {
		fmt.Fprintln(os.Stderr, "usage: verify-go [-each-byte] FOLDER 'name+hash+key'")
		os.Exit(2)
	}
	summary, err := check(arguments[0], arguments[1])
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
	scope, err := readScope(data)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(data, "slice", "entries")); err == nil {
		return verifySlice(data, verifier)
	}
	return verifyLog(filepath.Join(data, "log"), scope, verifier)
}

// eachByte verifies the export, then once more with each byte of its log changed.
func eachByte(folder, vkey string) (string, error) {
	if _, err := verify(folder, vkey); err != nil {
		return "", err
	}
	defer func() { readFile = os.ReadFile }()
	flipped := 0
	for _, part := range []string{"log", "slice"} {
		err := filepath.Walk(filepath.Join(folder, "data", part), func(path string, info os.FileInfo, err error) error {
			if err != nil || info.IsDir() {
				return nil
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for at := range content {
				changed := append([]byte(nil), content...)
				changed[at] ^= 1 << (at % 8)
				readFile = func(name string) ([]byte, error) {
					if name == path {
						return changed, nil
					}
					return os.ReadFile(name)
				}
				if _, err := verify(folder, vkey); err == nil {
					return fmt.Errorf("byte %d of %s may be changed", at, path)
				}
				flipped++
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	if flipped == 0 {
		return "", errors.New("there is no log")
	}
	return fmt.Sprintf("each of %d changed bytes is refused", flipped), nil
}

// scope is which entries of the log an export holds.
type scope struct {
	Scope string
	From  int64
	To    int64
}

func readScope(data string) (scope, error) {
	var s scope
	text, err := readFile(filepath.Join(data, "scope.json"))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(text, &s)
}

// holds tells whether an entry bundle has entries that the export must have.
func (s scope) holds(first, end int64) bool {
	return s.Scope != "range" || s.From < end && first < s.To
}

// openCheckpoint believes a C2SP tlog-checkpoint only when the verifier's key signed it and it names its log.
func openCheckpoint(msg []byte, verifier note.Verifier) (tlog.Tree, error) {
	opened, err := note.Open(msg, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	// Go's package also takes other spellings of the same signature.
	for _, line := range strings.Split(strings.TrimSuffix(string(msg[len(opened.Text)+1:]), "\n"), "\n") {
		words := strings.Split(line, " ")
		if _, err := base64.StdEncoding.Strict().DecodeString(words[len(words)-1]); err != nil {
			return tlog.Tree{}, errors.New("a signature is not in its canonical form")
		}
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

func verifyLog(log string, scope scope, verifier note.Verifier) (string, error) {
	msg, err := readFile(filepath.Join(log, "checkpoint"))
	if err != nil {
		return "", err
	}
	tree, err := openCheckpoint(msg, verifier)
	if err != nil {
		return "", err
	}
	var hashes storage
	var leaves []tlog.Hash
	entries := 0
	for n := int64(0); n*tileWidth < tree.N; n++ {
		first := n * tileWidth
		count := width(tree.N - first)
		var bundle []tlog.Hash
		if scope.holds(first, first+int64(count)) {
			texts, err := readBundle(log, n, count)
			if err != nil {
				return "", err
			}
			for _, text := range texts {
				bundle = append(bundle, tlog.RecordHash(text))
			}
			entries += count
		} else if bundle, err = readHashes(log, n, count); err != nil {
			return "", err
		}
		for _, leaf := range bundle {
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
	return fmt.Sprintf("%d of %d entries, %d tiles, %d checkpoints of %s, root %s",
		entries, tree.N, tiles, earlier, verifier.Name(), tree.Hash), nil
}

// readHashes reads the hashes of entries that the export does not hold.
func readHashes(log string, n int64, count int) ([]tlog.Hash, error) {
	path := localPath(tlog.Tile{H: tileHeight, L: 0, N: n, W: count})
	data, err := readFile(filepath.Join(log, path))
	if err != nil {
		return nil, err
	}
	if len(data) != count*tlog.HashSize {
		return nil, fmt.Errorf("%s has not %d hashes", path, count)
	}
	hashes := make([]tlog.Hash, count)
	for i := range hashes {
		copy(hashes[i][:], data[i*tlog.HashSize:])
	}
	return hashes, nil
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
	data, err := readFile(filepath.Join(log, path))
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
			got, err := readFile(filepath.Join(log, localPath(tile)))
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
		msg, err := readFile(filepath.Join(log, "checkpoints", file.Name()))
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
			data, err := readFile(filepath.Join(t.log, path))
			if err != nil {
				return nil, err
			}
			t.seen[path] = data
		}
		all = append(all, t.seen[path])
	}
	return all, nil
}

func verifySlice(data string, verifier note.Verifier) (string, error) {
	files, err := os.ReadDir(filepath.Join(data, "slice", "entries"))
	if err != nil {
		return "", err
	}
	var tree tlog.Tree
	for number, file := range files {
		leaf, err := readFile(filepath.Join(data, "slice", "entries", file.Name()))
		if err != nil {
			return "", err
		}
		text, err := readFile(filepath.Join(data, "slice", "proofs", file.Name()+".tlog-proof"))
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
	return fmt.Sprintf("%d chosen entries of the log %s of %d entries", len(files), verifier.Name(), tree.N), nil
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
		raw, err := base64.StdEncoding.Strict().DecodeString(line)
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
