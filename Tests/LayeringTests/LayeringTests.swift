import Foundation
import Testing

/// Holds the code to the table of allowed imports.
@Suite struct LayeringTests {
    static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    @Test("every module under Sources has a row in the table")
    func everyModuleIsListed() throws {
        let folders = try FileManager.default.contentsOfDirectory(atPath: Self.root.path + "/Sources")
        #expect(Set(folders) == Set(rooms.map(\.name)).union(ownersOfC.keys))
    }

    @Test("a module imports only what its row allows", arguments: rooms.map(\.name))
    func importsAreAllowed(name: String) throws {
        let room = try #require(rooms.first { $0.name == name })
        let allowed = room.imports.union(room.packages).union(room.standard)
        for (file, imported) in try Self.imports(of: name) {
            let strangers = imported.subtracting(allowed)
            #expect(strangers.isEmpty, "\(name)/\(file) imports \(strangers.sorted())")
        }
    }

    @Test("the table only points down and has no cycle")
    func tablePointsDown() {
        var below: Set<String> = Set(ownersOfC.keys)
        for room in rooms {
            let above = room.imports.subtracting(below)
            #expect(above.isEmpty, "\(room.name) points up or sideways to \(above.sorted())")
            below.insert(room.name)
        }
    }

    @Test("each C library is touched by one module")
    func oneOwnerForC() throws {
        for (library, owner) in ownersOfC {
            for room in rooms where room.name != owner {
                let users = try Self.imports(of: room.name).filter { $0.imported.contains(library) }
                #expect(users.isEmpty, "\(room.name) imports \(library), which belongs to \(owner)")
            }
        }
    }

    @Test("what a module must never reach is not reached through another module either")
    func transitiveImports() throws {
        var edges: [String: Set<String>] = [:]
        for room in rooms {
            edges[room.name] = try Self.imports(of: room.name).reduce(into: []) { $0.formUnion($1.imported) }
        }
        for rule in unreachable {
            var reached: Set<String> = []
            var waiting = [rule.from]
            while let next = waiting.popLast() {
                // What the sealing library uses inside does not become an ability of those above it.
                guard next != "Sealing" || rule.from == "Sealing" else { continue }
                for module in edges[next] ?? [] where reached.insert(module).inserted { waiting.append(module) }
            }
            let forbidden = reached.intersection(rule.never)
            #expect(forbidden.isEmpty, "\(rule.from) reaches \(forbidden.sorted())")
        }
    }

    @Test("Package.swift links exactly what the table allows", arguments: rooms.map(\.name))
    func packageAgrees(name: String) throws {
        let manifest = try String(contentsOf: Self.root.appendingPathComponent("Package.swift"), encoding: .utf8)
        let room = try #require(rooms.first { $0.name == name })
        let linked = try #require(Self.dependencies(of: name, in: manifest))
        #expect(linked == room.imports.union(room.packages), "\(name)")
    }

    @Test("a module never shares its name with a type in it")
    func noTypeNamedAsItsModule() throws {
        for room in rooms {
            let declaration = try Regex("\\b(struct|class|enum|actor|protocol|typealias)\\s+\(room.name)\\b")
            for (file, text) in try Self.sources(of: room.name) where room.name != "Gateway" {
                #expect(text.firstMatch(of: declaration) == nil, "\(room.name)/\(file)")
            }
        }
    }

    // MARK: - Reading the tree

    static func sources(of module: String) throws -> [(file: String, text: String)] {
        let folder = root.appendingPathComponent("Sources/\(module)")
        let files = FileManager.default.enumerator(at: folder, includingPropertiesForKeys: nil)
        var found: [(String, String)] = []
        while let file = files?.nextObject() as? URL {
            guard file.pathExtension == "swift" else { continue }
            found.append((file.lastPathComponent, try String(contentsOf: file, encoding: .utf8)))
        }
        return found
    }

    static func imports(of module: String) throws -> [(file: String, imported: Set<String>)] {
        let pattern =
            /^\s*(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|package|internal|fileprivate|private)\s+)?import\s+(?:(?:struct|class|enum|func|var|let|protocol|typealias)\s+)?([A-Za-z_][A-Za-z0-9_]*)/
            .anchorsMatchLineEndings()
        return try sources(of: module).map { file, text in
            (file, Set(text.matches(of: pattern).map { String($0.output.1) }))
        }
    }

    /// The names in the dependency list of a target, with package products by their product's name.
    static func dependencies(of target: String, in manifest: String) -> Set<String>? {
        guard let products = try? Regex("let (\\w+) = Target\\.Dependency\\.product\\(name: \"(\\w+)\""),
            let declaration = try? Regex("(?s)(?:room\\(\\s*|executableTarget\\(\\s*name: )\"\(target)\"(.*?)\\)[,\\n]")
        else { return nil }
        var productOfName: [String: String] = [:]
        for match in manifest.matches(of: products) {
            productOfName[String(match.output[1].substring!)] = String(match.output[2].substring!)
        }
        guard let match = manifest.firstMatch(of: declaration), let body = match.output[1].substring else { return nil }
        guard let open = body.firstIndex(of: "["), let close = body[open...].firstIndex(of: "]") else { return [] }
        let names = body[body.index(after: open)..<close].split(whereSeparator: { ", \n".contains($0) })
        return Set(
            names.map { name in
                name.hasPrefix("\"") ? name.trimmingCharacters(in: ["\""]) : productOfName[String(name)] ?? String(name)
            })
    }
}
