import ArgumentParser
import Foundation
import Gateway
import Vocabulary

struct TrailCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "trail", abstract: "The trail's witnesses, signing key and anchor.",
        subcommands: [Witnesses.self, Cosign.self, RotateKey.self, Reanchor.self])

    struct Witnesses: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Set who is asked to cosign the trail's heads.",
            discussion: """
                The file is a C2SP tlog-policy: lines `log KEY`, `witness NAME KEY ADDRESS`, `group NAME NUMBER NAME…`
                and `quorum NAME`. An auditor's own trust file has the same form; theirs is what counts (`sekisho audit
                verify --trust`).
                """)
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The policy file.") var file: String

        func run() async throws {
            try await options.withGateway { gateway in
                let witnesses = try await gateway.setWitnesses(URL(fileURLWithPath: file), by: actor.required)
                return Answer(
                    ["witnesses": .array(witnesses.map(JSON.string))],
                    ["\(witnesses.count) witnesses will be asked, by a serving gateway once an hour."])
            }
        }
    }

    struct Cosign: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Ask the witnesses to cosign the newest head now. What they said is recorded.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withGateway { gateway in
                let result = try await gateway.cosign(by: actor.required)
                return Answer(
                    [
                        "size": .integer(Int64(result.size)),
                        "answers": .array(
                            result.words.map { ["witness": .string($0.witness), "said": .string($0.said)] }),
                    ],
                    ["Head of size \(result.size):"] + result.words.map { "  \($0.witness) \($0.said)" })
            }
        }
    }

    struct RotateKey: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Let a new key sign the heads from here on; the old one is erased. Witnesses must learn it.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withGateway { gateway in
                let key = try await gateway.rotateTrailKey(by: actor.required)
                return Answer(
                    ["key": .string(key)],
                    ["Heads are signed by a new key from here on. Tell every witness (`add-log`):", key])
            }
        }
    }

    struct Reanchor: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Open a trail whose anchor is lost, and put its newest head in the anchor's place.",
            discussion: """
                Only when the volume with the anchor is gone: without an anchor this host cannot tell whether the trail
                was rolled back. Compare its size with what a witness or an export says. It is recorded with your name.
                """)
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withGateway(reanchoring: actor.required) { _ in
                Answer(["done": true], ["The anchor is made anew from the trail's newest head."])
            }
        }
    }
}
