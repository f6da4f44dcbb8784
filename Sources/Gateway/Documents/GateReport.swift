import Mustache
import PolicyEngine
import TransparencyLog
package import Vocabulary

/// What the release gate found of a candidate, in one document: for reviewers to read, print and keep, and for scripts.
///
/// Its JSON is `audit/gate-report.schema.json`; the page is made of that JSON alone, needs no script, font or other
/// file, and is told in English and Japanese.
package struct GateReport: Sendable {
    package enum Language: String, CaseIterable, Sendable { case english = "en", japanese = "ja" }

    package let json: JSON

    /// One page that stands by itself.
    package func html(_ language: Language) throws -> String {
        try MustacheTemplate(string: Self.page).render(content(Words(language: language)))
    }

    private func text(_ json: JSON?, _ name: String) -> String { json?[name]?.stringValue ?? "" }

    private func content(_ words: Words) -> [String: Any] {
        func pair(_ name: String, _ value: String) -> [String: String] { ["name": words[name], "value": value] }
        func mark(_ good: Bool) -> String { good ? "✓" : "✗" }
        let reviews = json["reviews"]
        let decision = json["decision"]
        let cohort = json["cohort"]
        let rules = json["rules"]
        let given = (reviews?["words"]?.arrayValue ?? []).map { word in
            [
                "mark": mark(word["verdict"] == "approve"), "verdict": words[text(word, "verdict")],
                "person": text(word, "person"), "role": text(word, "role"), "time": text(word, "time"),
            ]
        }
        func number(_ json: JSON?, _ name: String) -> String { "\(json?[name]?.integerValue ?? 0)" }
        return [
            "lang": words.language.rawValue, "title": words["title"], "intro": words["intro"],
            "state": words["state.\(text(json, "state"))"], "stateName": words["state"],
            "summary": [
                pair("run", text(json, "run")), pair("dataset", "\(text(json, "dataset")) \(text(json, "version"))"),
                pair("root", text(json, "root")), pair("candidate", text(json, "candidate")),
                pair("checked", "\(text(json, "checked")) (\(words["entry"]) \(number(json, "entry")))"),
                pair("trail", text(json, "trail")),
            ],
            "checksTitle": words["checks"],
            "checks": (json["checks"]?.arrayValue ?? []).map { check in
                let passed = check["passed"] == true
                return [
                    "mark": mark(passed), "result": words[passed ? "passed" : "failed"],
                    "name": words["check.\(text(check, "check"))"], "code": text(check, "check"),
                    "finding": text(check, "finding"),
                ]
            },
            "check": words["check"], "result": words["result"], "finding": words["finding"],
            "cohortTitle": words["cohort"],
            "cohort": [
                pair("persons", number(cohort, "persons")), pair("withheld", number(cohort, "withheld")),
                pair("minimum", number(cohort, "minimum")),
            ],
            "artefactsTitle": words["artefacts"],
            "artefacts": (json["artefacts"]?.arrayValue ?? []).map { artefact in
                ["name": text(artefact, "name"), "bytes": number(artefact, "bytes")]
            },
            "bytes": words["bytes"], "reviewsTitle": words["reviews"],
            "needed": words["needed"].replacing("#", with: number(reviews, "needed"))
                .replacing(
                    "%", with: (rules?["roles"]?.arrayValue ?? []).compactMap(\.stringValue).joined(separator: ", ")),
            "rule": words["rule"], "hasWords": !given.isEmpty, "words": given, "none": words["none"],
            "conflict": reviews?["conflict"] == true ? words["conflict"] : "",
            "hidden": reviews?["hidden"] == true ? words["hidden"] : "",
            "decisionTitle": words["decision"], "undecided": words["undecided"],
            "hasDecision": decision?.objectValue != nil,
            "decision": [
                pair("verdict", words["verdict.\(text(decision, "verdict"))"]), pair("time", text(decision, "time")),
                pair("policy", text(decision, "policy")), pair("entry", number(decision, "entry")),
            ],
            "reasons": (decision?["reasons"]?.arrayValue ?? []).map { reason in
                [
                    "code": text(reason, "code"), "text": text(reason, "text"),
                    "place": "\(text(reason, "file")):\(number(reason, "line"))",
                ]
            },
            "verify": words["verify"],
        ]
    }

    private struct Words {
        let language: Language

        subscript(key: String) -> String {
            guard let pair = Self.texts[key] else { return key }
            return language == .english ? pair.0 : pair.1
        }

        private static let texts: [String: (String, String)] = [
            "title": ("Release gate report", "持出し審査報告書"),
            "intro": (
                "What the gateway found of this candidate, from what it recorded itself; nothing that a device or a researcher said is taken.",
                "ゲートウェイが自ら記録した事実だけから、この候補について判定した内容です。装置や研究者の申告は用いません。"
            ),
            "state": ("State", "状態"), "state.waiting": ("waits for review", "審査待ち"),
            "state.released": ("released", "持出し許可済み"), "state.refused": ("refused", "拒否"),
            "run": ("Run", "実行"), "dataset": ("Data set", "データセット"),
            "root": ("Root of the data set's version", "データセット版のルート"),
            "candidate": ("Hash of the candidate", "候補のハッシュ"), "checked": ("Checked", "検査日時"),
            "entry": ("entry", "記録番号"), "trail": ("Audit trail", "監査証跡"),
            "checks": ("Checks", "検査"), "check": ("Check", "検査項目"), "result": ("Result", "結果"),
            "finding": ("Finding", "所見"), "passed": ("passed", "合格"), "failed": ("failed", "不合格"),
            "check.artefact": ("Only allowed kinds of file", "許可された種類のファイルのみ"),
            "check.shape": ("No row for each person", "個人ごとの行がない"), "check.cohort": ("Size of the cohort", "集団の大きさ"),
            "check.freedom": ("Residual degrees of freedom", "残差自由度"),
            "check.membership": ("Worst-case membership inference", "最悪条件のメンバーシップ推定"),
            "check.disclosure": ("Class disclosure", "クラスの露見"),
            "check.loss": ("Gap between the losses", "損失分布の差"),
            "cohort": ("Cohort", "集団"), "persons": ("People in the training set", "学習対象の人数"),
            "withheld": ("People withheld", "除外された人数"), "minimum": ("At least asked for", "必要な最少人数"),
            "artefacts": ("What would leave", "持ち出されるもの"), "bytes": ("bytes", "バイト"),
            "reviews": ("Reviews", "審査"),
            "needed": ("# different people of these roles must speak: %.", "次の役割の異なる # 人の審査が必要です:%。"),
            "rule": (
                "Each speaks without seeing the others' words. When all have spoken it is decided: one rejection refuses the release, whatever the others say.",
                "審査者は互いの意見を見ずに判断します。全員の審査が揃った時点で決定し、一人でも却下すれば、ほかの意見にかかわらず持出しは拒否されます。"
            ),
            "none": ("No words to show.", "表示できる審査はありません。"),
            "hidden": (
                "While the review goes on, others' words are not shown.", "審査が終わるまで、ほかの審査者の意見は表示されません。"
            ),
            "conflict": (
                "The reviewers disagreed. A rejection outweighs, so the release was refused.",
                "審査者の意見が分かれました。却下が優先されるため、持出しは拒否されました。"
            ),
            "approve": ("approved", "承認"), "reject": ("rejected", "却下"),
            "decision": ("Decision", "決定"), "undecided": ("Not decided yet.", "まだ決定されていません。"),
            "verdict": ("Answer", "答え"), "verdict.permit": ("permitted", "許可"), "verdict.refuse": ("refused", "拒否"),
            "verdict.needs-human": ("waits for people", "人の判断待ち"), "time": ("Time", "日時"),
            "policy": ("Policies", "ポリシー"),
            "verify": (
                "The entries named here are in the audit trail; an export of this run proves them.",
                "ここに示す記録は監査証跡にあり、この実行のエクスポートで検証できます。"
            ),
        ]
    }

    private static let page = """
        <!doctype html>
        <html lang="{{lang}}"><head><meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>{{title}}</title>
        <style>
        :root{color-scheme:light dark;--ink:#1b2430;--quiet:#5a6675;--page:#fff;--rule:#d6dce3;--good:#1c6440;--bad:#9c2238}
        @media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--quiet:#a3afbd;--page:#12171e;--rule:#2c3642;--good:#86d6aa;
        --bad:#f5a3b1}}
        body{margin:2rem auto;max-width:60rem;padding:0 1rem;font:16px/1.6 system-ui,"Noto Sans JP",sans-serif;color:var(--ink);
        background:var(--page)}
        h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}.quiet{color:var(--quiet)}.strong{font-weight:600}
        table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--rule);
        vertical-align:top;overflow-wrap:anywhere}th{font-weight:600}code{font-size:.85em}
        @media print{:root{color-scheme:light;--ink:#000;--page:#fff}body{max-width:none;margin:0}h2{break-after:avoid}
        tr{break-inside:avoid}}
        </style></head><body><main>
        <h1>{{title}}</h1>
        <p>{{intro}}</p>
        <p class="strong">{{stateName}}: {{state}}</p>
        <table><tbody>{{#summary}}<tr><th scope="row">{{name}}</th><td>{{value}}</td></tr>{{/summary}}</tbody></table>
        <h2>{{checksTitle}}</h2>
        <table><thead><tr><th scope="col">{{check}}</th><th scope="col">{{result}}</th><th scope="col">{{finding}}</th></tr></thead><tbody>
        {{#checks}}<tr><th scope="row">{{name}} <code>{{code}}</code></th><td>{{mark}} {{result}}</td><td lang="en">{{finding}}</td></tr>
        {{/checks}}</tbody></table>
        <h2>{{cohortTitle}}</h2>
        <table><tbody>{{#cohort}}<tr><th scope="row">{{name}}</th><td>{{value}}</td></tr>{{/cohort}}</tbody></table>
        <h2>{{artefactsTitle}}</h2>
        <table><tbody>{{#artefacts}}<tr><th scope="row"><code>{{name}}</code></th><td>{{bytes}} B</td></tr>{{/artefacts}}</tbody></table>
        <h2>{{reviewsTitle}}</h2>
        <p>{{needed}}</p><p class="quiet">{{rule}}</p>
        {{#hasWords}}<ul>{{#words}}<li>{{mark}} {{verdict}}: <strong>{{person}}</strong>, {{role}}, {{time}}</li>{{/words}}</ul>{{/hasWords}}
        {{^hasWords}}<p class="quiet">{{none}}</p>{{/hasWords}}
        <p class="quiet">{{hidden}}</p><p class="strong">{{conflict}}</p>
        <h2>{{decisionTitle}}</h2>
        {{#hasDecision}}<table><tbody>{{#decision}}<tr><th scope="row">{{name}}</th><td>{{value}}</td></tr>{{/decision}}</tbody></table>
        <ul>{{#reasons}}<li><code>{{code}}</code> <span lang="en">{{text}}</span> <code>{{place}}</code></li>{{/reasons}}</ul>{{/hasDecision}}
        {{^hasDecision}}<p class="quiet">{{undecided}}</p>{{/hasDecision}}
        <p class="quiet">{{verify}}</p>
        </main></body></html>

        """
}

extension Gateway {
    /// The report of a run's candidate, for those who may open the run: others' words only once it is decided.
    package func gateReport(of id: RunID, by person: PersonID) async throws -> GateReport {
        typealias Key = RunCase.Key
        let entry = try release(of: id, by: person)
        let candidate = try await candidate(of: id, by: person)
        let run = try runCase(id)
        guard let checked = run.file[Key.checked], let opened = run.file[Key.opened]?.detail,
            let persons = opened["persons"], let withheld = opened["withheld"]
        else { throw GatewayError(.integrity, "the recorded checks cannot be read") }
        // Without a policy nobody may use the data any more; what was found still stands.
        let rules = try? policy(for: run.dataset).release
        let isHidden = reviewsMissing(run) != nil
        let verdicts = Set(entry.votes.map(\.approves))
        var decided: JSON = .null
        if let record = run.file[Key.releaseDecided], let decision = record.payload["decision"] {
            decided = [
                "verdict": record.core["decision"] ?? .null, "entry": .integer(Int64(record.index)),
                "time": .string(record.time.description), "policy": record.core["policy"] ?? .null,
                "reasons": decision["reasons"] ?? [],
            ]
        }
        return GateReport(
            json: [
                "format": "sekisho gate report v1", "trail": .string(settings.trail.description),
                "run": .string(id.text), "dataset": .string(run.dataset.text), "version": .string(run.version.text),
                "root": .string(run.root.hex), "candidate": .string(candidate.hash.hex),
                "checked": .string(checked.time.description), "entry": .integer(Int64(checked.index)),
                "state": .string(entry.state.rawValue),
                "checks": .array(
                    candidate.checks.map {
                        [
                            "check": .string($0.name), "passed": .bool($0.passed), "finding": .string($0.finding),
                        ]
                    }),
                "cohort": [
                    "persons": persons, "withheld": withheld,
                    "minimum": .integer(Int64(rules?.cohortMin.value ?? 0)),
                ],
                "artefacts": .array(
                    candidate.artefacts.map { ["name": .string($0.name), "bytes": .integer(Int64($0.bytes))] }),
                "rules": [
                    "checks": .array((rules?.checks.value ?? []).map { .string($0.rawValue) }),
                    "roles": .array((rules?.roles.value ?? []).map(JSON.string)),
                ],
                "reviews": [
                    "needed": .integer(Int64(rules?.reviewers.value ?? 0)), "hidden": .bool(isHidden),
                    "conflict": .bool(!isHidden && verdicts.count == 2),
                    "words": .array(
                        entry.votes.map {
                            [
                                "person": .string($0.person.text), "role": .string($0.role),
                                "verdict": $0.approves ? "approve" : "reject", "time": .string($0.time.description),
                            ]
                        }),
                ],
                "decision": decided,
            ])
    }
}
